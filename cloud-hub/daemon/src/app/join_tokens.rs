//! Join tokens: secrets with the addresses of this hub.

use std::sync::Arc;

use protocol::JoinToken;
use types::Digest;

use crate::api::TokenCreated;
use crate::app::operators::Caller;
use crate::app::tokens::{CreateTokenError, TokenOrder, Tokens};
use crate::clock;
use crate::config::HubConfig;
use crate::config::reach;

/// Creation of join tokens.
#[derive(Debug)]
pub struct JoinTokens {
    /// Join tokens on record.
    pub tokens: Arc<Tokens>,
    /// Fingerprint of the CA, which devices check.
    pub ca: Digest,
    /// Config, for the addresses by which devices reach the hub.
    pub config: Arc<HubConfig>,
    /// Port of the device server.
    pub port: u16,
}

impl JoinTokens {
    /// Creates a join token.
    ///
    /// # Errors
    /// When the name is taken, the life is out of bounds, or the store fails.
    pub async fn create(&self, by: &Caller, order: TokenOrder) -> Result<TokenCreated, CreateTokenError> {
        let minted = self.tokens.mint(by, order, clock::unix_s()).await?;
        let token = JoinToken {
            hub: reach::public_addresses(&self.config, self.port),
            server_name: self.config.server_name().to_owned(),
            ca: self.ca,
            secret: minted.secret,
            expires_unix_s: minted.expires_unix_s,
        };
        token.check()?;
        let mut warnings = reach::unreachable(&self.config, self.port);
        warnings.extend(reach::unresolved(&self.config, self.port).await);
        Ok(TokenCreated {
            token: token.to_string(),
            device: minted.device,
            expires_unix_ms: minted.expires_unix_s.saturating_mul(1000),
            warnings,
        })
    }
}
