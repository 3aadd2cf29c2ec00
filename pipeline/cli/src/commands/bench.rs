//! bench
use crate::args::BenchArgs;
use chasqui_runtime::Config;
pub(crate) async fn run(_args: &BenchArgs, _config: Config) -> anyhow::Result<()> {
    anyhow::bail!("soon")
}
