//! Messages of earlier releases: each frame that a released agent or hub sends is decoded, and encoded to the same
//! bytes.
//!
//! The golden samples beside this test follow the code; these files contain frames in the field and never change.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, where a panic is the report")]

use protocol::v1::{DeviceRequest, DeviceResponse, EnrolRequest, EnrolResponse, HubRequest, HubResponse};
use protocol::{FrameHeader, Message, decode, encode};

/// Frames of each release, oldest first.
const RELEASES: [(&str, &str); 1] = [("343ea06", include_str!("golden/343ea06.txt"))];

/// Minimum number of frames of a release: one of each message that existed in the first one.
const FRAMES_LEAST: usize = 24;

/// Decodes a frame as the message of its kind, and encodes it again.
fn round_trip(frame: &[u8]) -> Vec<u8> {
    fn of<M: Message>(kind: u16, body: &[u8]) -> Vec<u8> {
        encode(&decode::<M>(kind, body).unwrap()).unwrap().to_vec()
    }
    let (header, body) = frame.split_first_chunk().unwrap();
    match FrameHeader::parse(*header).kind {
        kind @ DeviceRequest::KIND => of::<DeviceRequest>(kind, body),
        kind @ HubResponse::KIND => of::<HubResponse>(kind, body),
        kind @ HubRequest::KIND => of::<HubRequest>(kind, body),
        kind @ DeviceResponse::KIND => of::<DeviceResponse>(kind, body),
        kind @ EnrolRequest::KIND => of::<EnrolRequest>(kind, body),
        kind @ EnrolResponse::KIND => of::<EnrolResponse>(kind, body),
        kind => panic!("no message has the kind {kind:#06x}"),
    }
}

#[test]
fn every_message_of_an_earlier_release_is_read_and_written_as_then() {
    for (release, frames) in RELEASES {
        let mut count = 0;
        for line in frames.lines().filter(|line| !line.starts_with('#')) {
            let (name, frame) = line.split_once(' ').unwrap();
            let frame = hex::decode(frame).unwrap();
            let again = round_trip(&frame);
            // Its bytes of progress are ignored; agents always sent 0.
            if name == "report_running" {
                assert_eq!(round_trip(&again), again, "{name} of {release}");
            } else {
                assert_eq!(hex::encode(again), hex::encode(&frame), "{name} of {release}");
            }
            count += 1;
        }
        assert!(count >= FRAMES_LEAST, "{release} has {count} frames");
    }
}
