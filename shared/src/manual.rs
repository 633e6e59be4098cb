//! What a program says of itself to shells and to `man`: completions and pages, made from its own table of flags.

use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
pub use clap_complete::Shell;

use crate::telemetry::complain;
use crate::terminal::{print, print_json};

/// What each exit code means, for `help exit-codes` and the pages.
pub const EXIT_CODES: &str = "\
Exit codes, of every command:

  0  done
  1  failed while working, incomplete, or interrupted; of a check: something is not as it should be
  2  wrong usage or settings; every fault is told, one line each, and nothing was done
  3  refused by the state of a database or of what was chosen: a schema that is not there, a standby, a job that runs

With --json an error is an object on standard output: {\"error\": …, \"exit_code\": …}.
";

/// What is wrong with how a program was called, or the help that was asked for; ends with the exit code. Where JSON was
/// asked for, the error is JSON.
pub fn usage(error: &clap::Error, arguments: impl IntoIterator<Item = std::ffi::OsString>) -> u8 {
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    if error.use_stderr() && arguments.into_iter().any(|argument| argument == "--json") {
        let text = error.render().to_string();
        let message = text.trim().trim_start_matches("error: ");
        print_json(&serde_json::json!({"error": message, "exit_code": code}));
    } else {
        let _ = error.print();
    }
    code
}

/// Prints the completions for a shell.
pub fn completions(mut command: Command, shell: Shell) {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    print(&String::from_utf8_lossy(&script));
}

/// Writes the pages, and says so. Returns the exit code.
pub fn write(command: Command, directory: &Path) -> u8 {
    match pages(command, directory) {
        Ok(files) => {
            print(&format!("{} pages are in {}\n", files.len(), directory.display()));
            0
        }
        Err(error) => {
            complain(&format!("{}: can't be written to: {error}", directory.display()));
            1
        }
    }
}

/// Writes a page for the program and one for each of its commands into a directory. Returns the files.
///
/// # Errors
/// When the directory can't be made or written to.
pub fn pages(mut command: Command, directory: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(directory)?;
    command.build();
    let name = command.get_name().to_owned();
    let mut files = Vec::new();
    page(&command, &name, directory, &mut files)?;
    Ok(files)
}

fn page(command: &Command, name: &str, directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let file = directory.join(format!("{name}.1"));
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    std::fs::write(&file, text)?;
    files.push(file);
    let commands = command.get_subcommands().filter(|of| !of.is_hide_set() && of.get_name() != "help");
    commands.into_iter().try_for_each(|of| page(of, &format!("{name}-{}", of.get_name()), directory, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page() {
        let directory = std::env::temp_dir().join(format!("pages-{}", std::process::id()));
        let command = Command::new("thing").subcommand(Command::new("do").subcommand(Command::new("it")));
        let files = pages(command, &directory).unwrap();
        let names: Vec<_> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
        assert_eq!(names, ["thing.1", "thing-do.1", "thing-do-it.1"]);
        assert!(std::fs::read_to_string(&files[2]).unwrap().contains("thing\\-do\\-it"));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
