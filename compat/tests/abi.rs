//! What other programs are linked against: symbols, signatures, layouts, the library's own needs, and the
//! headers. Uses gcc, g++, nm and readelf.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program")]

mod common;

use common::{here, include_flags, library, scratch};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The exported symbols are exactly those of `exports/*.txt`.
#[test]
fn symbols_are_those_listed() {
    let symbols = run("nm", &["-D", "--defined-only", "--format=posix", text(library())]);
    let found: BTreeSet<_> = symbols.lines().filter_map(|l| l.split(' ').next()).collect();
    let lists = ["mooncake.txt", "tent.txt"].map(|f| read(&here().join("exports").join(f)));
    let wanted: BTreeSet<_> = lists.iter().flat_map(|list| list.lines()).collect();
    assert_eq!(found, wanted, "left: exported, right: listed");
    assert_eq!(lists[0].lines().count(), 27, "upstream has 27 functions");
}

/// The library needs nothing but the C library and the unwinder, and bears upstream's name.
#[test]
fn the_library_is_a_light_guest() {
    let dynamic = run("readelf", &["--dynamic", "--wide", text(library())]);
    let needed = dynamic.lines().filter(|l| l.contains("(NEEDED)")).map(bracketed);
    let allowed = ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"];
    for name in needed {
        assert!(allowed.contains(&name), "needs {name}");
    }
    let soname = dynamic.lines().find(|l| l.contains("(SONAME)")).map(bracketed);
    assert_eq!(soname, Some("libtransfer_engine.so"));
    let flags = dynamic.lines().find(|l| l.contains("(FLAGS_1)")).unwrap_or_default();
    assert!(flags.contains("NODELETE"), "{flags}");
    // no constructors of ours: the C runtime has one (frame_dummy), Rust's std another (argv)
    let array = dynamic.lines().find(|l| l.contains("(INIT_ARRAYSZ)")).unwrap_or_default();
    let bytes = array.split_whitespace().nth_back(1).and_then(|n| n.parse::<u32>().ok());
    assert!(bytes.unwrap_or(0) <= 16, "{array}");
}

/// Each Rust function has the signature that the exact header declares: the compiler sees both.
#[test]
fn signatures_agree_with_the_header() {
    let mut sources: Vec<_> = files(&here().join("src/mooncake"), "rs");
    sources.retain(|f| !f.ends_with("tests.rs"));
    let prototypes = generate("cbindgen-check.toml", &sources);
    let names = read(&here().join("exports/mooncake.txt"));
    for name in names.lines() {
        assert!(prototypes.contains(&format!("{name}(")), "{name} was not seen by cbindgen");
    }
    let source = format!(
        "#include \"transfer_engine_c.h\"\n\
         typedef int ErrCode;\ntypedef int StatusCode;\ntypedef int StatsCode;\n\
         typedef int TentCode;\ntypedef segment_id_t SegmentOrError;\n\
         typedef batch_id_t BatchOrInvalid;\ntypedef transfer_engine_t EngineOrNull;\n\
         typedef transport_t TransportOrNull;\ntypedef notify_msg_t *NotifsOrNull;\n{prototypes}"
    );
    compile_both("signatures", &source);
    // the check itself is checked: a wrong type must not compile
    let wrong = source.replacen("size_t task_id", "int task_id", 1);
    assert_ne!(wrong, source);
    assert!(!compiles("signatures_wrong", &wrong, Language::C));
}

/// Sizes, offsets and constants are upstream's.
#[test]
fn layouts_are_upstreams() {
    compile_both("layout", LAYOUT);
}

/// Every header compiles alone, and all together in any order.
#[test]
fn headers_stand_alone() {
    let (old, new) = ("#include \"transfer_engine_c.h\"\n", "#include \"tent.h\"\n");
    for (name, source) in [
        ("alone_mooncake", old.to_owned()),
        ("alone_tent", new.to_owned()),
        ("both", format!("{old}{new}")),
        ("both_turned", format!("{new}{old}")),
    ] {
        compile_both(name, &source);
    }
}

/// `include/tent.h` is what cbindgen makes today. `TENT_BLESS=1` writes it.
#[test]
fn tent_h_is_up_to_date() {
    let made = in_c_words(&generate("cbindgen.toml", &tent_sources()));
    let path = here().join("../include/tent.h");
    if std::env::var_os("TENT_BLESS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == made, "include/tent.h is stale; run this test with TENT_BLESS=1");
    for name in read(&here().join("exports/tent.txt")).lines() {
        assert!(made.contains(&format!("{name}(")), "{name} is not in tent.h");
    }
}

/// Every exported function is guarded: its body begins with `entry!` and names itself there.
#[test]
fn every_export_goes_through_entry() {
    let mut sources = files(&here().join("src"), "rs");
    sources.extend(files(&here().join("src/mooncake"), "rs"));
    sources.extend(files(&here().join("src/tent"), "rs"));
    let mut seen = 0;
    for path in sources {
        let source = read(&path);
        for item in source.split("#[unsafe(no_mangle)]\npub ").skip(1) {
            let head = item.strip_prefix("unsafe extern \"C\" fn ").unwrap_or_default();
            let name = head.split('(').next().unwrap_or_default();
            let body = item.split_once(" {\n").map_or("", |(_, body)| body).trim_start();
            let call = body.strip_prefix("entry!(").unwrap_or_default();
            let call = call.trim_start_matches("keep ").trim_start_matches("void ");
            assert!(call.starts_with(&format!("{name}, {{")), "{name} in {path:?}");
            seen += 1;
        }
    }
    let listed = ["mooncake.txt", "tent.txt"].map(|f| read(&here().join("exports").join(f)));
    assert_eq!(seen, listed.iter().map(|l| l.lines().count()).sum::<usize>());
}

/// `MATRIX.md` speaks of every exported function.
#[test]
fn the_matrix_is_complete() {
    let matrix = read(&here().join("MATRIX.md"));
    for list in ["mooncake.txt", "tent.txt"] {
        for name in read(&here().join("exports").join(list)).lines() {
            assert!(matrix.contains(&format!("| `{name}` |")), "{name} is not in MATRIX.md");
        }
    }
}

/// In the order in which a reader of the header wants them.
fn tent_sources() -> Vec<PathBuf> {
    let parts = ["engine", "segment", "memory", "transfer", "notify", "submit", "report"];
    let mut sources: Vec<_> = vec![here().join("src/tent.rs")];
    sources.extend(parts.map(|part| here().join(format!("src/tent/{part}.rs"))));
    assert_eq!(sources.len(), 1 + files(&here().join("src/tent"), "rs").len(), "one is not listed");
    sources
}

#[derive(Clone, Copy, Debug)]
enum Language {
    C,
    Cpp,
}

fn compile_both(name: &str, source: &str) {
    assert!(compiles(name, source, Language::C), "{name} as C11");
    assert!(compiles(name, source, Language::Cpp), "{name} as C++17");
}

fn compiles(name: &str, source: &str, language: Language) -> bool {
    let (compiler, standard, kind) = match language {
        Language::C => ("gcc", "-std=c11", "c"),
        Language::Cpp => ("g++", "-std=c++17", "cpp"),
    };
    let file = scratch("abi").join(format!("{name}.{kind}"));
    fs::write(&file, source).unwrap();
    let output = Command::new(compiler)
        .args([standard, "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"])
        .args(include_flags())
        .arg(&file)
        .output()
        .expect("a C compiler");
    println!("{name}: {}", String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

fn generate(config: &str, sources: &[PathBuf]) -> String {
    let config = cbindgen::Config::from_file(here().join(config)).expect("a readable config");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in sources {
        builder = builder.with_src(source);
    }
    let mut made = Vec::new();
    builder.generate().expect("bindings").write(&mut made);
    String::from_utf8(made).unwrap()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// "Safety" is Rust's word; a C reader wants to know what is asked of him, and nothing if it is nothing.
fn in_c_words(header: &str) -> String {
    let heading = "//\n// # Safety\n// ";
    header
        .replace(&format!("{heading}None.\n"), "")
        .replace(&format!("{heading}None: the ids are checked.\n"), "")
        .replace(heading, "// Required: ")
        .replace("const char * ", "const char *")
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    found.sort();
    found
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect(program);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn bracketed(line: &str) -> &str {
    line.split(['[', ']']).nth(1).unwrap_or_default()
}

const LAYOUT: &str = r#"
#include "transfer_engine_c.h"
#include "tent.h"
#include <assert.h>
#include <stddef.h>
#define AT(s, f, o) static_assert(offsetof(struct s, f) == (o), #s "." #f)
#define SIZE(s, n) static_assert(sizeof(struct s) == (n), #s)
SIZE(transfer_request, 40);
AT(transfer_request, opcode, 0);
AT(transfer_request, source, 8);
AT(transfer_request, target_id, 16);
AT(transfer_request, target_offset, 24);
AT(transfer_request, length, 32);
SIZE(transfer_status, 16);
AT(transfer_status, status, 0);
AT(transfer_status, transferred_bytes, 8);
SIZE(notify_msg, 16);
AT(notify_msg, name, 0);
AT(notify_msg, msg, 8);
SIZE(buffer_entry, 16);
AT(buffer_entry, addr, 0);
AT(buffer_entry, length, 8);
SIZE(nic_load_stat, 80);
AT(nic_load_stat, device_name, 0);
AT(nic_load_stat, inflight_bytes, 64);
AT(nic_load_stat, ewma_bandwidth_bps, 72);
SIZE(segment_desc, 48);
AT(segment_desc, type, 0);
AT(segment_desc, desc_, 8);
SIZE(tent_status, 16);
AT(tent_status, status, 0);
AT(tent_status, transferred_bytes, 8);
SIZE(tent_buffer_info, 80);
AT(tent_buffer_info, base, 0);
AT(tent_buffer_info, length, 8);
AT(tent_buffer_info, location, 16);
SIZE(tent_segment_info, 16);
AT(tent_segment_info, type, 0);
AT(tent_segment_info, num_buffers, 4);
AT(tent_segment_info, buffers, 8);
SIZE(tent_request, 48);
AT(tent_request, source, 8);
AT(tent_request, target_id, 16);
AT(tent_request, target_offset, 24);
AT(tent_request, length, 32);
AT(tent_request, priority, 40);
AT(tent_request, transport_hint, 44);
SIZE(tent_notifi_record, 4360);
AT(tent_notifi_record, name, 8);
AT(tent_notifi_record, msg, 264);
SIZE(tent_notifi_info, 16);
AT(tent_notifi_info, records, 8);
SIZE(tent_memory_options, 344);
AT(tent_memory_options, permission, 64);
AT(tent_memory_options, transport_type, 68);
AT(tent_memory_options, shm_path, 72);
AT(tent_memory_options, shm_offset, 328);
AT(tent_memory_options, internal, 336);
SIZE(tent_nic_load_stat, 80);
AT(tent_nic_load_stat, inflight_bytes, 64);
AT(tent_nic_load_stat, ewma_bandwidth_bps, 72);
SIZE(tent_submit_options, 72);
AT(tent_submit_options, policy, 24);
AT(tent_submit_options, transports, 48);
AT(tent_submit_options, priority, 68);
SIZE(tent_strided, 72);
AT(tent_strided, target_id, 24);
AT(tent_strided, count, 56);
static_assert(sizeof(segment_handle_t) == 4 && (segment_handle_t)-1 < 0, "segment_handle_t");
static_assert(sizeof(segment_id_t) == 4 && (segment_id_t)-1 < 0, "segment_id_t");
static_assert(sizeof(batch_id_t) == 8 && (batch_id_t)-1 > 0, "batch_id_t");
static_assert(sizeof(transfer_engine_t) == 8 && sizeof(transport_t) == 8, "handles");
static_assert(LOCAL_SEGMENT == 0 && INVALID_BATCH == 0xffffffffffffffffu, "ids");
static_assert(OPCODE_READ == 0 && OPCODE_WRITE == 1, "opcodes");
static_assert(STATUS_WAITING == 0 && STATUS_PENDING == 1 && STATUS_INVALID == 2, "status");
static_assert(STATUS_CANCELED == 3 && STATUS_COMPLETED == 4, "status");
static_assert(STATUS_TIMEOUT == 5 && STATUS_FAILED == 6, "status");
static_assert(TENT_STATUS_WAITING == 0 && TENT_STATUS_PENDING == 1, "tent status");
static_assert(TENT_STATUS_CANCELED == 3 && TENT_STATUS_COMPLETED == 4, "tent status");
static_assert(TENT_STATUS_TIMEOUT == 5 && TENT_STATUS_FAILED == 6, "tent status");
#if !defined(segment_handle_t) || !defined(segment_id_t) || !defined(batch_id_t)
#error "upstream's ids are macros"
#endif
static_assert(TYPE_MEMORY == TENT_TYPE_MEMORY && TYPE_FILE == 1, "types");
static_assert(PERM_LOCAL_READ_WRITE == 0 && PERM_GLOBAL_READ_ONLY == 1, "permissions");
static_assert(PERM_GLOBAL_READ_WRITE == 2 && TENT_LOCAL_SEGMENT_ID == 0, "permissions");
static_assert(TRANSPORT_UNSPEC == 0 && TRANSPORT_SHM == 3 && TRANSPORT_TCP == 7, "transports");
static_assert(TRANSPORT_MPCOMM == 12, "transports");
#if !defined(tent_batch_id_t) || !defined(tent_segment_id_t)
#error "TENT's ids are macros"
#endif
typedef tent_request_t g; typedef tent_status_t h; typedef tent_segment_info_t i;
typedef tent_notifi_record_t j; typedef tent_notifi_info k; typedef tent_memory_options_t l;
typedef tent_nic_load_stat_t m;
typedef transfer_request_t a; typedef transfer_status_t b; typedef notify_msg_t c;
typedef buffer_entry_t d; typedef nic_load_stat_t e; typedef segment_desc_t f;
"#;
