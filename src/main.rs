//! The one binary; see [`wharf::cli`].

fn main() -> std::process::ExitCode {
    wharf::cli::main()
}
