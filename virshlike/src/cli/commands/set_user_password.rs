//! `vm set-user-password`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Set the password of a user inside a guest, by its agent
///
/// The password is seen by whoever lists this host's processes meanwhile: --encrypted takes a hash
/// as the guest's shadow file has it.
#[derive(Debug, clap::Args)]
pub struct SetUserPassword {
    /// The domain: name, id or UUID
    domain: String,
    /// The user
    user: String,
    /// The new password
    password: String,
    /// The password is a hash already
    #[arg(long)]
    encrypted: bool,
}

impl Verb for SetUserPassword {
    const NAME: &'static str = "set-user-password";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        context.manager()?.set_user_password(
            &domain,
            &self.user,
            &self.password,
            self.encrypted,
        )?;
        context.ui.sentence(format!(
            "Password set successfully for {} in {}",
            self.user, domain.name
        ))
    }
}
