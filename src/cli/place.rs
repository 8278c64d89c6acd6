//! Where in a file stands what is wrong with it.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::control::protocol::Finding;

/// Names the file of findings, and the lines of what they speak of. JSON has no lines here: it is written by programs.
pub(super) fn findings(findings: &mut [Finding], file: &str, text: &str) {
    let tree = DeTable::parse(text).ok();
    let line = |key: &str| line_of(tree.as_ref()?, text, key);
    for finding in findings {
        file.clone_into(&mut finding.file);
        finding.line = line(&finding.key);
        if let Some(conflicts) = &mut finding.conflict {
            let placed = conflicts.split(", ").map(|conflict| {
                let key = conflict.split(' ').next().unwrap_or_default();
                line(key).map_or_else(|| conflict.to_owned(), |line| format!("{conflict} at line {line}"))
            });
            *conflicts = placed.collect::<Vec<_>>().join(", ");
        }
    }
}

/// The line, from one, of a key such as `dnat[2].public_port`, or of the nearest around it that is there.
fn line_of(tree: &Spanned<DeTable<'_>>, text: &str, key: &str) -> Option<u32> {
    let mut steps = key.split(['.', '[', ']']).filter(|step| !step.is_empty());
    let mut found = tree.get_ref().get(steps.next()?)?;
    for step in steps {
        let inner = match found.get_ref() {
            DeValue::Table(table) => table.get(step),
            DeValue::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => None,
        };
        let Some(inner) = inner else { break };
        found = inner;
    }
    let before = text.get(..found.span().start)?;
    u32::try_from(before.matches('\n').count() + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_line_of_its_value_or_of_what_is_around_it() {
        let text = "version = 1\n\n[[eip]]\naddress = \"203.0.113.16\"\n\n[[dnat]]\nname = \"a\"\n[[dnat]]\nname = \"b\"\npublic_port = 80\n\
                    [dnat.timeouts]\nudp = \"5m\"\n[[snat]]\neips = [\n  \"a\",\n  \"b\",\n]\n";
        let tree = DeTable::parse(text).unwrap();
        let line = |key| line_of(&tree, text, key);
        assert_eq!(line("version"), Some(1));
        assert_eq!(line("eip[0].address"), Some(4));
        assert_eq!(
            [line("dnat[0]"), line("dnat[1]"), line("dnat[1].public_port")],
            [Some(6), Some(8), Some(10)]
        );
        assert_eq!(line("dnat[1].private_ip"), Some(8));
        assert_eq!(line("dnat[1].timeouts.udp"), Some(12));
        assert_eq!(line("snat[0].eips[1]"), Some(16));
        assert_eq!([line(""), line("vpc[0]")], [None, None]);
    }
}
