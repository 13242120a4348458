//! Bodies for fuzzing: plain functions from bytes, run bounded by tests and longer by a fuzzer. They must
//! not panic, whatever the bytes are; what is accepted is the same after it was written and read again. Each returns
//! whether something was accepted, so that a test can hold that the bodies are not left at the door.

use crate::console::{Attach, Attached};
use crate::control::{Call, Hello, Message};
use crate::end::EndRecord;
use crate::spec::MachineSpec;
use serde::{Serialize, de::DeserializeOwned};

/// Any bytes as a machine spec.
pub fn spec(bytes: &[u8]) -> bool {
    let Ok(spec) = MachineSpec::from_json(bytes) else {
        return false;
    };
    spec.fds();
    for problem in spec.check() {
        assert!(!problem.to_string().is_empty(), "a problem without words");
    }
    let Ok(text) = spec.to_json() else {
        panic!("a spec that was read cannot be written")
    };
    assert!(MachineSpec::from_json(&text).is_ok_and(|again| again == spec));
    true
}

/// Any bytes as each message of the protocol.
pub fn messages(bytes: &[u8]) -> bool {
    let accepted = [
        twice::<Hello>(bytes),
        twice::<Call>(bytes),
        twice::<Message>(bytes),
        twice::<EndRecord>(bytes),
        twice::<Attach>(bytes),
        twice::<Attached>(bytes),
    ];
    accepted.contains(&true)
}

/// What is read, written and read again is written the same way.
fn twice<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else {
        return false;
    };
    let text = serde_json::to_vec(&value).unwrap_or_default();
    let again = serde_json::from_slice::<T>(&text).map(|value| serde_json::to_vec(&value));
    assert!(
        matches!(again, Ok(Ok(again)) if again == text),
        "not the same when read again: {}",
        String::from_utf8_lossy(&text)
    );
    true
}
