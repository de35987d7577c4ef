//! Generates the base-dialect peers' messages and service from the one .proto, apart from the product's own.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../proto-core/proto/stream.proto");
    let descriptors = protox::compile(
        ["../proto-core/proto/stream.proto"],
        ["../proto-core/proto"],
    )?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
