//! Generates the gRPC messages and services from `proto/`, without a `protoc` program.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["grpc_service.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("inference_descriptor.bin"), protox::prost::Message::encode_to_vec(&files))?;
    tonic_prost_build::configure()
        .build_client(true)
        // Raw tensors share the memory of the message that brought them.
        .bytes(".inference.ModelInferRequest.raw_input_contents")
        .bytes(".inference.ModelInferResponse.raw_output_contents")
        // Refuses messages that would take much more memory than their bytes, before they are decoded.
        .codec_path("crate::grpc::codec::BoundedCodec")
        .compile_fds(files)?;
    Ok(())
}
