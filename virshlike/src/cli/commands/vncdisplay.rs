//! `vm vncdisplay`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};

/// Print where the display of a running domain is; this build has none yet and says so
#[derive(Debug, clap::Args)]
pub struct Vncdisplay {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Vncdisplay {
    const NAME: &'static str = "vncdisplay";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        Err(no_display(context, &self.domain)?)
    }
}

/// `vm domdisplay`
///
/// Print the address of the display of a running domain; this build has none yet and says so
#[derive(Debug, clap::Args)]
#[command(about = "Print the address of the display of a running domain; this build has none yet and says so", long_about = None)]
pub struct Domdisplay {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Domdisplay {
    const NAME: &'static str = "domdisplay";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        Err(no_display(context, &self.domain)?)
    }
}

/// Why there is no display: the domain is not running, asks for none, or this build has none.
fn no_display(context: &Context, word: &str) -> Result<Error> {
    let manager = context.manager()?;
    let domain = context.domain(word)?;
    let guest = manager.running(&domain)?;
    let (_, model) = manager.current_definition(&domain, Some(&guest))?;
    let why = match model.graphics.is_empty() {
        true => format!("the definition of '{}' has no <graphics>", domain.name),
        false => "<graphics> is kept in the definition, and no display is built yet".to_string(),
    };
    Ok(Error::new(Kind::NotFound, "No graphical display found")
        .cause(why)
        .hint(format!("its serial console: vm console {}", domain.name)))
}
