//! Both decoders of the gofer's protocol: no input may panic, and what decodes as a request must
//! encode to the same bytes again.
#![no_main]

use gofer::wire::cursor::{Reader, Wire};
use gofer::wire::reply::{
    AttrReply, BytesReply, HelloReply, LinkReply, NodeInfo, ReadDirReply, StatFsReply, WalkReply,
    WatchReply,
};
use gofer::wire::{ReplyHeader, RequestFrame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(frame) = RequestFrame::decode(data) {
        let mut again = Vec::new();
        frame.encode(&mut again);
        assert_eq!(again, data);
    }
    if let Ok((_, body)) = ReplyHeader::decode(data) {
        let _ = HelloReply::take(&mut body.clone());
        let _ = WalkReply::take(&mut body.clone());
        let _ = ReadDirReply::take(&mut body.clone());
        let _ = NodeInfo::take(&mut body.clone());
        let _ = AttrReply::take(&mut body.clone());
        let _ = LinkReply::take(&mut body.clone());
        let _ = BytesReply::take(&mut body.clone());
        let _ = StatFsReply::take(&mut body.clone());
        let _ = WatchReply::take(&mut body.clone());
    }
    // Without a header in the way.
    let _ = ReadDirReply::take(&mut Reader::new(data));
    let _ = WalkReply::take(&mut Reader::new(data));
});
