//! Generates the gRPC service around proto-core's `StreamMsg`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../proto-core/proto/stream.proto");
    let descriptors = protox::compile(
        ["../proto-core/proto/stream.proto"],
        ["../proto-core/proto"],
    )?;
    tonic_prost_build::configure()
        .extern_path(".proto.StreamMsg", "::proto_core::proto::StreamMsg")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
