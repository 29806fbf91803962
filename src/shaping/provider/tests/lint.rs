//! What a look over a profile finds.

use super::*;

fn check_lint(rules: &str, expected: &[&str]) {
    let found = problems(&format!("name = \"tiny\"\nmx = [\"tiny.example\"]\n{rules}"));
    assert_eq!(found, expected, "{rules}");
}

#[test]
fn lint_finds_rules_that_are_never_reached() {
    let wide = "[[rule]]\nname = \"wide\"\nreason = \"policy\"\naction = \"slow\"\nany = [\"too many\"]\nsample = [\"421 too many\"]\n";
    check_lint(
        &format!(
            "{wide}[[rule]]\nname = \"narrow\"\nreason = \"policy\"\naction = \"none\"\nany = [\"too many links\"]\nsample = [\"421 Too many links\"]\n"
        ),
        &[
            "own.toml:9: narrow (rule[1]): it is never reached: wide before it takes all that it is for; move it up, or remove it",
            "own.toml:14: narrow (rule[1].sample[0]): rule wide takes this sample first; correct the rule, or the sample; profile tiny",
        ],
    );
    // It is by its code.
    check_lint(
        &format!(
            "{}[[rule]]\nname = \"narrow\"\nreason = \"policy\"\naction = \"none\"\ncode = [\"5\"]\nany = [\"too many links\"]\nsample = [\"550 Too many links\"]\n",
            wide.replace("any =", "code = [\"4\"]\nany =")
        ),
        &[],
    );
}

#[test]
fn lint_finds_rules_that_overlap() {
    check_lint(
        "[[rule]]\nname = \"a\"\nreason = \"policy\"\naction = \"slow\"\nany = [\"too many\"]\nsample = [\"421 too many\"]\n\
         [[rule]]\nname = \"b\"\nreason = \"policy\"\naction = \"slow\"\nany = [\"go away\", \"too many links\"]\nsample = [\"421 go away\"]\n",
        &[
            "own.toml:13: warning: b (rule[1].any[1]): \"too many links\" overlaps: rule a takes it first; remove it from one of the two, or ask this rule first",
        ],
    );
}

#[test]
fn lint_finds_rules_that_contradict() {
    check_lint(
        "[[rule]]\nname = \"a\"\nreason = \"policy\"\naction = \"slow\"\nany = [\"go away\"]\nsample = [\"421 go away\"]\n\
         [[rule]]\nname = \"b\"\nreason = \"policy\"\naction = \"pause-stream\"\nany = [\"now\", \"go away\"]\nsample = [\"421 now\"]\n",
        &[
            "own.toml:13: b (rule[1].any[1]): \"go away\" contradicts rule a, which makes slow of it and is asked first; remove it from one of the two, or ask this rule first",
        ],
    );
    check_lint(
        "[[rule]]\nname = \"a\"\nreason = \"policy\"\naction = \"slow\"\ncode = [\"4\"]\nenhanced = [\"5.7.1\"]\nany = [\"go away\"]\nunless = [\"away\"]\nsample = [\"421 go away\"]\n",
        &[
            "own.toml:8: a (rule[0].enhanced): no code of these goes with one in code; give both the same first digit",
            "own.toml:9: a (rule[0].any[0]): \"go away\" contradicts unless = \"away\": they cannot both hold; remove one of the two",
            "own.toml:11: a (rule[0].sample[0]): unmatched: the rule does not match its sample; correct the rule, or the sample; profile tiny",
        ],
    );
    check_lint(
        "[[rule]]\nname = \"a\"\nreason = \"policy\"\naction = \"greylist\"\ncode = [\"5\"]\nany = [\"again\"]\nsample = [\"550 again\"]\n",
        &[
            "own.toml:6: a (rule[0].action): greylist has nobody to wait: a reply with these codes is final; set transient = true, or action = \"none\"",
        ],
    );
}

#[test]
fn lint_finds_samples_that_their_rule_does_not_match() {
    check_lint(
        "[[rule]]\nname = \"a\"\nreason = \"policy\"\naction = \"slow\"\nany = [\"go away\"]\nsample = [\"421 stay\", \"450 4.7.1 Greylisted\"]\n",
        &[
            "own.toml:8: a (rule[0].sample[0]): unmatched: the rule does not match its sample; correct the rule, or the sample; profile tiny",
            "own.toml:8: a (rule[0].sample[1]): unmatched: the rule does not match its sample (rule greylisted of default does); correct the rule, or the sample; profile tiny",
        ],
    );
}

#[test]
fn lint_finds_what_cannot_be_read() {
    for (text, expected) in [
        (
            "",
            &[
                "own.toml: name: \"\" is no name of a provider; write name = \"…\" with at most 32 letters in lower case, digits and hyphens; not \"none\"",
            ][..],
        ),
        (
            "name = \"none\"",
            &[
                "own.toml:1: name: \"none\" is no name of a provider; write name = \"…\" with at most 32 letters in lower case, digits and hyphens; not \"none\"",
            ],
        ),
        (
            "name = \"tiny\"",
            &["own.toml: warning: mx: no site is of tiny; list the ends of its MX hosts' names: mx = [ … ]"],
        ),
        (
            "name = \"tiny\"\nmx = [\"google.com\"]",
            &["own.toml:2: mx[0]: google.com is of google, too; leave it to one of the two"],
        ),
        (
            "name = \"tiny\"\nmx = [\"Tiny.example\"]",
            &[
                "own.toml:2: mx[0]: \"Tiny.example\" is no domain in lower case; write the end of the hosts' names, as in \"google.com\"",
            ],
        ),
        (
            "name = \"tiny\"\nmx = [\"tiny.example\", \"mx.tiny.example\"]",
            &["own.toml:2: warning: mx[1]: mx.tiny.example is below another of the list; remove it"],
        ),
        (
            "name = \"relay\"\nmx = [\"tiny.example\"]",
            &["own.toml:2: mx[0]: the profile relay is never found by MX; give these hosts a profile of another name"],
        ),
        (
            "name = \"google\"\n[limits]\nconnections = 0",
            &["own.toml:3: limits.connections: 0 lets nothing through; set a limit of at least 1"],
        ),
        (
            "name = \"google\"\n[limits]\nmessages = \"5 a day\"",
            &[
                "own.toml:3: limits.messages: \"5 a day\" is not a rate; write it as \"100/s\", \"1000/h\", \"500/10m\" or \"100/s burst 20\"",
            ],
        ),
        (
            "name = \"google\"\n[controller]\nconnections_floor = 60",
            &["own.toml:3: controller.connections_floor: 60 is more than connections_ceiling (50); lower it"],
        ),
        ("name = \"google\"\nlimit = 3", &["own.toml:2: limit: unknown key; did you mean limits?"]),
        (
            "name = \"google\"\n[[rule]]\nname = \"a\"\nreason = \"policies\"\naction = \"slow\"\nany = [\"x\"]\nsample = [\"421 x\"]",
            &[
                "own.toml:4: rule[0].reason: \"policies\" is not known; use one of: user-unknown, mailbox-full, host-unknown, suspended, spam-block, blocked-ip, auth-failure, policy, content-rejected, message-too-big, rate-limit, relaying-denied, expired, network-error, system-error, other",
            ],
        ),
        (
            "name = \"google\"\n[[rule]]\nname = \"a\"\nreason = \"policy\"\naction = \"slow\"\nany = [\"Go Away\"]\nsample = [\"421 go away\"]",
            &[
                "own.toml:6: a (rule[0].any[0]): \"Go Away\" stands in no text as it is compared; write it as \"go away\"",
                "own.toml:7: a (rule[0].sample[0]): unmatched: the rule does not match its sample; correct the rule, or the sample; profile google",
            ],
        ),
        (
            "name = \"google\"\n[[rule]]\nname = \"a\"\nreason = \"policy\"\naction = \"slow\"\nsample = []",
            &[
                "own.toml:2: a (rule[0]): it would take every reply; say which: any = [ … ], code = [ … ] or enhanced = [ … ]",
                "own.toml:6: a (rule[0].sample): there is none; give at least one reply that the rule is for",
            ],
        ),
        ("name = [", &["own.toml:1: unclosed array, expected `]`; correct the TOML syntax here"]),
    ] {
        assert_eq!(problems(text), expected, "{text}");
    }
}
