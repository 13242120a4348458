//! Saved state that somebody tampered with: it is refused, or makes a machine that can be used.

use super::board::Pc;
use super::script::Script;
use serde_json::Value;

/// Steps before the machine is saved, and after it was restored.
const STEPS: usize = 60;

/// Any change to the state of any device. Whether it was accepted.
pub fn saved_state(bytes: &[u8]) -> bool {
    let mut script = Script::new(bytes);
    let pc = Pc::create(None).expect("empty buses");
    for _ in 0..script.below(STEPS as u16) {
        pc.step(&mut script);
    }
    pc.pause();
    let mut sections = pc.save();
    for _ in 0..=script.below(3) {
        let at = usize::from(script.byte()) % sections.len();
        let section = &mut sections[at];
        match script.below(16) {
            0 => section.version = script.value() as u32,
            1 => drop(sections.remove(at)),
            _ => {
                let leaves = count(&section.payload).max(1);
                let mut which = usize::from(script.word()) % leaves;
                spoil(&mut section.payload, &mut which, &mut script);
            }
        }
    }
    let Ok(other) = Pc::create(Some(&sections)) else {
        return false;
    };
    // What was accepted is what it is.
    let accepted = other.save();
    assert_eq!(other.save(), accepted, "saving changes something");
    other.resume();
    for _ in 0..STEPS {
        if script.is_over() {
            break;
        }
        other.step(&mut script);
    }
    other.pause();
    other.save();
    true
}

/// Values in it that hold no others.
fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 1,
    }
}

/// Changes the `which`-th value.
fn spoil(value: &mut Value, which: &mut usize, script: &mut Script<'_>) {
    match value {
        Value::Object(fields) => {
            for field in fields.values_mut() {
                spoil(field, which, script);
            }
            return;
        }
        Value::Array(items) => {
            for item in items.iter_mut() {
                spoil(item, which, script);
            }
            if *which == 0 {
                resize(items, script);
            }
        }
        _ if *which == 0 => *value = replaced(value, script),
        _ => {}
    }
    *which = which.wrapping_sub(1);
}

fn resize(items: &mut Vec<Value>, script: &mut Script<'_>) {
    match script.below(3) {
        0 => drop(items.pop()),
        1 => items.clear(),
        _ => {
            if let Some(last) = items.last().cloned() {
                items.extend(std::iter::repeat_n(last, usize::from(script.byte())));
            }
        }
    }
}

fn replaced(value: &Value, script: &mut Script<'_>) -> Value {
    match value {
        Value::Bool(on) => Value::Bool(!on),
        Value::Number(_) => match script.below(8) {
            0 => Value::from(-1),
            1 => Value::Null,
            _ => Value::from(script.value()),
        },
        Value::Null => Value::from(script.value()),
        Value::String(text) => {
            let mut text = text.clone();
            match script.below(3) {
                0 => drop(text.pop()),
                1 => text.push('f'),
                _ => text.push_str("0000"),
            }
            Value::from(text)
        }
        other => other.clone(),
    }
}
