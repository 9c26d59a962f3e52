//! Messages and services that the build generates from `proto/grpc_service.proto`.

/// Package `inference`: the Open Inference Protocol with Triton's extensions.
#[expect(missing_docs, clippy::allow_attributes, reason = "generated; the messages are described by the protocol")]
pub mod inference {
    tonic::include_proto!("inference");
}

/// Descriptors of the package `inference`, for reflection.
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inference_descriptor.bin"));
