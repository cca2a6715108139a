//! `hashpool <role>`: one role with its own configuration.

use std::fmt::Display;
use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;

use relay::ShortNames;
use serde::Serialize;
use serde::de::DeserializeOwned;
use service::config;
use tokio_util::sync::CancellationToken;

use crate::cli::RoleArgs;
use crate::failure::Failure;

/// All roles, as the subcommands and the environment name them.
pub(crate) const NAMES: [&str; 7] = [
    "pool",
    "template-provider",
    "translator",
    "miner",
    "pool-stats",
    "proxy-stats",
    "relay",
];

/// What this binary needs to know of a role.
pub(crate) trait Role {
    /// The subcommand's name.
    const NAME: &str;
    /// What the role's file holds.
    type Config: Serialize + DeserializeOwned + Default;

    /// What short names of the environment say, where the role has some.
    fn short_names() -> Result<ShortNames, Failure> {
        Ok(ShortNames::default())
    }

    /// What can be found wrong without opening anything.
    fn validate(config: &Self::Config) -> Result<(), impl Display>;
    /// Runs until the token is cancelled.
    fn run(
        config: Self::Config,
        shutdown: CancellationToken,
    ) -> impl Future<Output = Result<(), impl Display>> + Send;
}

macro_rules! role {
    ($name:ident, $crate_name:ident, $subcommand:literal $(, $($more:tt)+)?) => {
        pub(crate) struct $name;

        impl Role for $name {
            const NAME: &str = $subcommand;
            type Config = $crate_name::Config;

            $($($more)+)?

            fn validate(config: &Self::Config) -> Result<(), impl Display> {
                config.validate()
            }

            fn run(
                config: Self::Config,
                shutdown: CancellationToken,
            ) -> impl Future<Output = Result<(), impl Display>> + Send {
                $crate_name::run(config, shutdown)
            }
        }
    };
}

role!(Pool, pool, "pool");
role!(TemplateProvider, template_provider, "template-provider");
role!(Translator, translator, "translator");
role!(Miner, miner, "miner");
role!(PoolStats, pool_stats, "pool-stats");
role!(ProxyStats, proxy_stats, "proxy-stats");
role!(
    Relay,
    relay,
    "relay",
    fn short_names() -> Result<ShortNames, Failure> {
        ShortNames::read(|name| std::env::var(name).ok()).map_err(Failure::configuration)
    }
);

/// Loads and validates the configuration.
pub(crate) fn load<R: Role>(args: &RoleArgs) -> Result<R::Config, Failure> {
    load_for::<R>(args, |config| {
        R::validate(config).map_err(|error| error.to_string())
    })
}

/// Loads the configuration for something that does not need all of it; `validate` looks at what it needs.
pub(crate) fn load_for<R: Role>(
    args: &RoleArgs,
    validate: impl FnOnce(&R::Config) -> Result<(), String>,
) -> Result<R::Config, Failure> {
    config::check_environment(&NAMES, std::env::vars_os()).map_err(Failure::configuration)?;
    let short = R::short_names()?;
    let file = args.config.as_ref().or(short.config_file.as_ref());
    let overrides = &args.overrides;
    let file_path = file.map(PathBuf::as_path);
    let config = config::load_with_short_names(R::NAME, file_path, &short.values, overrides)
        .map_err(Failure::configuration)?;
    validate(&config).map_err(|error| match file {
        Some(file) => Failure::configuration(format!("{}: {error}", file.display())),
        None => Failure::configuration(error),
    })?;
    Ok(config)
}

/// Prints what would run.
pub(crate) fn print<R: Role>(config: &R::Config) -> Result<(), Failure> {
    let text = config::to_redacted_toml(config).map_err(Failure::running)?;
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(Failure::running)
}
