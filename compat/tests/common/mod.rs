//! What the tests of the built library share.

#![allow(dead_code, reason = "no test program uses all of it")]
#![allow(clippy::unwrap_used, reason = "test programs")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The shared library of this build. Cargo does not build a cdylib for its package's tests, so it is asked
/// to; that does nothing if the library is up to date.
pub(crate) fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(build_library)
}

/// The package's directory.
pub(crate) fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A directory for generated files, of this name.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// `-I` for both header directories.
pub(crate) fn include_flags() -> [String; 2] {
    ["include", "../include"].map(|dir| format!("-I{}", here().join(dir).display()))
}

fn build_library() -> PathBuf {
    // this program lies in target/<profile>/deps
    let program = std::env::current_exe().unwrap();
    let profile_dir = program.ancestors().nth(2).expect("target/<profile>").to_path_buf();
    let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--offline", "--package", "tent-capi", "--profile", profile])
        .arg("--target-dir")
        .arg(target_dir)
        .current_dir(here())
        .status()
        .expect("cargo");
    assert!(status.success(), "the library does not build");
    let library = profile_dir.join("libtransfer_engine.so");
    assert!(library.exists(), "{}", library.display());
    library
}
