//! `enableGracefulShutdown` in a process of its own: the scenarios of upstream's GracefulShutdownTest, as a
//! C program that links the library.

#![allow(clippy::unwrap_used, reason = "a test program")]

mod common;

use common::{include_flags, library, scratch};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;

#[test]
fn sigterm_ends_with_143() {
    assert_eq!(run("term").code(), Some(143));
}

#[test]
fn sigint_ends_with_130() {
    assert_eq!(run("int").code(), Some(130));
}

#[test]
fn enabling_twice_is_enabling_once() {
    assert_eq!(run("twice").code(), Some(143));
}

#[test]
fn an_engine_destroyed_before_the_signal_does_no_harm() {
    assert_eq!(run("destroyed").code(), Some(143));
}

#[test]
fn several_engines_end_together() {
    assert_eq!(run("several").code(), Some(143));
}

#[test]
fn a_signal_does_what_it_always_did_unless_asked() {
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(run("never").signal(), Some(libc::SIGTERM));
}

/// The child has no watcher and ends at once with the same status (upstream's test asks for it); the parent
/// does not notice.
#[test]
fn a_forked_child_ends_as_well() {
    assert_eq!(run("fork").code(), Some(0));
}

/// In such a child the handler that the host had before is called.
#[test]
fn a_forked_child_keeps_the_host_s_handler() {
    assert_eq!(run("fork_handler").code(), Some(0));
}

/// A child with an engine of its own may ask for itself.
#[test]
fn a_forked_child_may_enable_anew() {
    assert_eq!(run("fork_again").code(), Some(0));
}

fn run(scenario: &str) -> ExitStatus {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(compile);
    Command::new(program).arg(scenario).status().expect("the program runs")
}

fn compile() -> PathBuf {
    let dir = scratch("shutdown");
    let (source, program) = (dir.join("shutdown.c"), dir.join("shutdown"));
    std::fs::write(&source, SOURCE).unwrap();
    let library = library();
    let status = Command::new("gcc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o"])
        .args([&program, &source])
        .args(include_flags())
        .arg(library)
        .arg(format!("-Wl,-rpath,{}", library.parent().unwrap().display()))
        .status()
        .expect("gcc");
    assert!(status.success());
    program
}

const SOURCE: &str = r#"
#include "transfer_engine_c.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static transfer_engine_t make(void) {
    transfer_engine_t e = createTransferEngine("P2PHANDSHAKE", "127.0.0.1", "", 0, 1);
    if (!e) _exit(2);
    return e;
}

static int sleep_for_ever(void) {
    while (pause() < 0) {}
    return 9;
}

static int wait_for(pid_t child) {
    int status = 0;
    return waitpid(child, &status, 0) == child ? status : -1;
}

static void on_term(int number) {
    (void)number;
    _exit(7);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    alarm(30); /* a hang is a death by SIGALRM */
    transfer_engine_t e = make();
    if (!strcmp(what, "fork_handler")) signal(SIGTERM, on_term);
    if (strcmp(what, "never")) enableGracefulShutdown(e);
    if (!strcmp(what, "twice")) enableGracefulShutdown(e);
    if (!strcmp(what, "several")) enableGracefulShutdown(make());
    if (!strcmp(what, "destroyed")) destroyTransferEngine(e);
    if (!strncmp(what, "fork", 4)) {
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            if (!strcmp(what, "fork_again")) enableGracefulShutdown(make());
            raise(SIGTERM);
            return sleep_for_ever();
        }
        int status = wait_for(child);
        int want = !strcmp(what, "fork_handler") ? 7 : 143;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != want) return 3;
        return discoverTopology(e) == 0 ? 0 : 5;
    }
    raise(!strcmp(what, "int") ? SIGINT : SIGTERM);
    return sleep_for_ever();
}
"#;
