//! No text makes the parser panic, and no error is without a place or a rule.

use proptest::prelude::*;

use super::*;

fn judge(text: &str) {
    if let Err(errors) = parse(text, "natgate.toml") {
        assert!(errors.len() > 0);
        let lines = text.bytes().filter(|b| *b == b'\n').count() as u32 + 1;
        for error in &errors {
            assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "{error}");
            assert!(!error.rule.is_empty());
        }
        let _ = errors.to_string();
    }
}

/// Pieces of which files are made, valid and not.
fn word() -> impl Strategy<Value = String> {
    let keys = reference::SECTIONS.iter().flat_map(|s| s.keys.iter().map(|key| format!("{} = ", key.name)));
    let headers = reference::SECTIONS.iter().map(|s| format!("{}\n", s.header));
    let values = [
        "\"Any\"\n",
        "80\n",
        "\"80/90\"\n",
        "true\n",
        "[]\n",
        "{}\n",
        "\"10.0.0.0/8\"\n",
        "\"203.0.113.16\"\n",
        "\"5m\"\n",
        "-1\n",
        "1.5\n",
        "1979-05-27\n",
        "\"vpc\"\n",
        "\"gw1\"\n",
        "[\"203.0.113.17\"]\n",
        "[{ to = \"10.0.0.0/8\" }]\n",
        "\"\"\n",
    ];
    let words: Vec<String> = keys.chain(headers).chain(values.map(str::to_owned)).collect();
    prop::sample::select(words)
}

proptest! {
    #[test]
    fn arbitrary_text(text in any::<String>()) {
        judge(&text);
    }

    #[test]
    fn words_of_the_language(words in prop::collection::vec(word(), 0..60)) {
        judge(&words.concat());
    }

    #[test]
    fn the_example_with_cuts_and_splices(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..40, prop::option::of(word())), 1..6),
    ) {
        let mut text = EXAMPLE.to_owned();
        for (at, len, insert) in cuts {
            let start = text.floor_char_boundary(at.index(text.len() + 1));
            let end = text.floor_char_boundary(start + len);
            text.replace_range(start..end, &insert.unwrap_or_default());
        }
        judge(&text);
    }

    #[test]
    fn the_example_with_other_bytes(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 1..8),
    ) {
        let mut chars: Vec<char> = EXAMPLE.chars().collect();
        for (at, char) in changes {
            let at = at.index(chars.len());
            chars[at] = char;
        }
        judge(&chars.into_iter().collect::<String>());
    }
}
