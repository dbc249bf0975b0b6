//! Compiles the protocol with a compiler written in Rust, so that building needs no `protoc`.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["wharf/peering/v1/peering.proto"], ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("peering.bin"), files.encode_to_vec())?; // for gRPC reflection
    // As peers of earlier releases know it: a test compares.
    let released = protox::compile(["0.1.proto"], ["proto/released"])?;
    std::fs::write(out.join("released-0.1.bin"), released.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
