//! `--mode` of shutdown and reboot: the ways to ask a guest.

use crate::error::{Error, Kind, Result};

/// A way to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The ACPI power button.
    Acpi,
    /// The guest agent.
    Agent,
}

/// Tries the ways of a list such as `agent,acpi`, in its order; the last one's error.
///
/// # Errors
/// A way that there is not, or what `ask` says of the last one.
pub fn first_that_works<T>(list: &str, ask: impl Fn(Mode) -> Result<T>) -> Result<T> {
    let mut modes = Vec::new();
    for word in list.split(',') {
        modes.push(match word {
            "acpi" => Mode::Acpi,
            "agent" => Mode::Agent,
            "initctl" | "signal" | "paravirt" => {
                let message = format!("--mode {word} is for other hypervisors");
                return Err(Error::new(Kind::Unsupported, message).hint("use acpi or agent"));
            }
            _ => {
                let message = format!("Unknown mode {word} value, expecting 'acpi' or 'agent'");
                return Err(Error::new(Kind::Usage, message));
            }
        });
    }
    let mut result = Err(Error::new(Kind::Usage, "--mode names no way to ask"));
    for mode in modes {
        result = ask(mode);
        if result.is_ok() {
            break;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_tried_in_their_order_until_one_works() {
        let fails = |mode| match mode {
            Mode::Agent => Err(Error::new(Kind::Guest, "no agent")),
            Mode::Acpi => Ok(mode),
        };
        assert_eq!(first_that_works("agent,acpi", fails).ok(), Some(Mode::Acpi));
        assert_eq!(
            first_that_works("agent", fails).map_err(|e| e.kind),
            Err(Kind::Guest)
        );
        for bad in ["", "acpi,nonsense", "initctl"] {
            assert!(first_that_works(bad, Ok).is_err(), "{bad}");
        }
    }
}
