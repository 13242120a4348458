//! Hands the linker our own memory layout and keeps the host's start files and libraries out.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/guest.ld");
    let arguments = [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,noexecstack",
        "-Wl,-z,max-page-size=4096",
    ];
    for argument in arguments {
        println!("cargo:rustc-link-arg-bin=test-guest={argument}");
    }
    println!("cargo:rustc-link-arg-bin=test-guest=-Wl,-T,{script}");
    println!("cargo:rerun-if-changed=guest.ld");
}
