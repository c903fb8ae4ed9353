//! What a taken-over Sentry can say to the launcher: messages of the control channel and records of
//! the audit. What is understood means the same when it is said again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sentry::audit::record::{Record, cut};
use sentry::boot::control::{FromSentry, ToSentry};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = serde_json::from_slice::<FromSentry>(bytes) {
        let again = serde_json::to_vec(&message).expect("JSON");
        assert_eq!(serde_json::from_slice::<FromSentry>(&again).expect("JSON"), message);
    }
    let _ = serde_json::from_slice::<ToSentry>(bytes);
    if let Ok(record) = serde_json::from_slice::<Record>(bytes) {
        let again = serde_json::to_vec(&record).expect("JSON");
        assert_eq!(serde_json::from_slice::<Record>(&again).expect("JSON"), record);
        let _ = cut(record.what);
    }
});
