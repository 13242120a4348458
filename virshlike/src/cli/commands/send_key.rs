//! `vm send-key`

use crate::cli::{Context, Group, Verb, keycodes};
use crate::error::{Error, Kind, Result};
use crate::manager::display::LONGEST_HOLD;

/// Press keys of a domain's keyboard
///
/// All keys go down together and up again after a while, as in: vm send-key web01 KEY_LEFTCTRL KEY_LEFTALT KEY_DELETE
#[derive(Debug, clap::Args)]
pub struct SendKey {
    /// The domain: name, id or UUID
    domain: String,
    /// Keys: names such as KEY_ENTER, or codes of the code set, decimal or hexadecimal
    #[arg(id = "keycode", required = true, num_args = 1..=16, value_name = "KEY")]
    keys: Vec<String>,
    /// The code set: linux
    #[arg(
        long,
        value_name = "SET",
        default_value = "linux",
        hide_default_value = true
    )]
    codeset: String,
    /// How long the keys are held, in milliseconds
    #[arg(
        long,
        value_name = "MS",
        default_value = "100",
        hide_default_value = true
    )]
    holdtime: u32,
}

impl Verb for SendKey {
    const NAME: &'static str = "send-key";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        if self.codeset != "linux" {
            let message = format!("the code set '{}' is not built", self.codeset);
            return Err(Error::new(Kind::Unsupported, message).hint("use --codeset linux"));
        }
        if self.holdtime > LONGEST_HOLD {
            let message = format!("keys are held for {LONGEST_HOLD} ms at most");
            return Err(Error::new(Kind::Usage, message));
        }
        let codes = self.keys.iter().map(|key| keycodes::find(key));
        let codes = codes.collect::<Result<Vec<_>>>()?;
        let domain = context.domain(&self.domain)?;
        context.manager()?.send_keys(&domain, codes, self.holdtime)
    }
}
