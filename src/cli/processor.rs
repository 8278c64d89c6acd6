//! Whether this processor has what the binary was compiled for.

use std::fs;

/// Instruction sets that the binary was compiled to use, by their names in `/proc/cpuinfo`.
const COMPILED_FOR: &[(&str, bool)] = &[
    ("avx2", cfg!(target_feature = "avx2")),
    ("bmi1", cfg!(target_feature = "bmi1")),
    ("bmi2", cfg!(target_feature = "bmi2")),
    ("fma", cfg!(target_feature = "fma")),
    ("movbe", cfg!(target_feature = "movbe")),
];

/// Refuses a processor that would stop at an instruction it does not know.
///
/// # Errors
/// What the processor lacks, and what to do.
pub fn check() -> Result<(), String> {
    // Where there is no such file, nothing is known and nothing is refused.
    let Ok(facts) = fs::read_to_string("/proc/cpuinfo") else { return Ok(()) };
    let missing = missing(&facts, COMPILED_FOR);
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "this processor lacks {}, which this binary was compiled for; \
         build natgate with RUSTFLAGS=\"-C target-cpu=native\" on this machine",
        missing.join(", ")
    ))
}

fn missing<'n>(facts: &str, compiled_for: &[(&'n str, bool)]) -> Vec<&'n str> {
    let Some(flags) = facts.lines().find_map(|line| line.strip_prefix("flags")) else { return Vec::new() };
    let has = |wanted: &str| flags.split_whitespace().any(|flag| flag == wanted);
    compiled_for.iter().filter(|(name, is_used)| *is_used && !has(name)).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "processor\t: 0\nflags\t\t: fpu sse2 ssse3 avx bmi1\nbugs\t\t:\n";

    #[test]
    fn a_processor_that_lacks_an_instruction_set_is_refused() {
        assert_eq!(missing(OLD, &[("avx2", true), ("bmi1", true), ("bmi2", false)]), ["avx2"]);
    }

    #[test]
    fn one_whose_flags_are_not_known_is_not() {
        assert!(missing("Features\t: asimd\n", &[("avx2", true)]).is_empty());
    }

    #[test]
    fn this_one_runs_what_was_compiled_for_it() {
        assert_eq!(check(), Ok(()));
    }
}
