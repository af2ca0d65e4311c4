//! Link arguments of the shared library. They are set here and nowhere else: given in the root crate they
//! would leak into every program that depends on it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // upstream builds its library without a version, so programs ask for exactly this name
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libtransfer_engine.so");
    // a host that calls dlclose would unmap code that a thread-local destructor still runs
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
