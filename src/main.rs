//! Arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    posthaste::cli::run()
}
