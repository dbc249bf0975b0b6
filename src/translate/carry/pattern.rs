//! Regular expressions: the syntax that RE2 takes, and the size of the program that it makes of one.
//!
//! Envoy rejects an expression that RE2 does not know, and one whose program is larger than a limit, and with it all
//! routes. So only what RE2, and each version of it, is known to take is let through, by looking at the syntax tree;
//! and the size of RE2's program is estimated from above (`re2/compile.cc`, `re2/simplify.cc`).

use regex_syntax::ast::parse::ParserBuilder;
use regex_syntax::ast::{
    AssertionKind, Ast, ClassBracketed, ClassPerl, ClassPerlKind, ClassSet, ClassSetItem, Flag, Flags, FlagsItemKind,
    Group, GroupKind, HexLiteralKind, Literal, LiteralKind, Repetition, RepetitionKind, RepetitionRange,
};

use super::limits::{MAX_NESTING, MAX_PROGRAM, MAX_REGEX, MAX_REPEAT};
use super::refusal::{FieldRefusal, quote_shortened};

/// A checked expression: what it costs, and the groups that a replacement may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RegexSize {
    /// Instructions of RE2, at most.
    pub program: usize,
    pub groups: u32,
}

pub(super) fn check_regex(regex: &str) -> Result<RegexSize, FieldRefusal> {
    if regex.is_empty() || regex.len() > MAX_REGEX {
        let message = format!("a regular expression has 1 to {MAX_REGEX} bytes, and this one has {}", regex.len());
        return Err(FieldRefusal::new(message));
    }
    if !regex.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Err(unknown_syntax(regex, "characters that are not printable ASCII"));
    }
    let ast = ParserBuilder::new().nest_limit(MAX_NESTING).build().parse(regex).map_err(|e| {
        FieldRefusal::new(format!("{} is not a regular expression: {}", quote_shortened(regex), e.kind()))
    })?;
    let mut survey = RegexSurvey { folds: false, groups: 0 };
    let program = survey.ast_size(&ast, 1).map_err(|what| unknown_syntax(regex, what))?.saturating_add(ENDS);
    if program > MAX_PROGRAM {
        let message = format!("{} is too large: RE2 may make {program} instructions of it", quote_shortened(regex));
        let cure = format!("the limit is {MAX_PROGRAM}; repeat less with {{n}}, and use fewer alternatives");
        return Err(FieldRefusal::new(message).cure(cure));
    }
    Ok(RegexSize { program, groups: survey.groups })
}

fn unknown_syntax(regex: &str, what: &str) -> FieldRefusal {
    FieldRefusal::new(format!("{} has {what} in it, which is not carried", quote_shortened(regex)))
        .cure("use literals, ., [a-z], \\d \\w \\s, groups, |, * + ? and {n,m}")
}

/// Instructions at both ends of a program: to begin anywhere, to match, to fail.
const ENDS: usize = 16;
/// Letters beyond ASCII, in UTF-8; and where all cases of what a class leaves out are left out too.
const WIDE: usize = 14;
const WIDE_FOLDED: usize = 32;
/// One range of a class: the range, and a branch to it.
const RANGE: usize = 2;
/// Factor by which a letter or a range grows with all its upper and lower cases (`k` is also the sign for Kelvin).
const FOLDED: usize = 8;

struct RegexSurvey {
    /// True after a `(?i)`: from there on, letters count with all their cases.
    folds: bool,
    groups: u32,
}

type SizeResult = Result<usize, &'static str>;

impl RegexSurvey {
    /// The instructions of a part, at most. `repeats` is the product of the counted repetitions around it.
    fn ast_size(&mut self, ast: &Ast, repeats: u32) -> SizeResult {
        match ast {
            Ast::Empty(_) => Ok(1),
            Ast::Flags(set) => self.look_at_flags(&set.flags).map(|()| 1),
            Ast::Literal(literal) => self.literal_size(literal),
            Ast::Dot(_) => Ok(WIDE),
            Ast::Assertion(assertion) => match assertion.kind {
                AssertionKind::StartLine
                | AssertionKind::EndLine
                | AssertionKind::StartText
                | AssertionKind::EndText
                | AssertionKind::WordBoundary
                | AssertionKind::NotWordBoundary => Ok(1),
                _ => Err("an assertion of another dialect"),
            },
            Ast::ClassUnicode(_) => Err("a class of Unicode"),
            Ast::ClassPerl(class) => Ok(self.perl_size(class)),
            Ast::ClassBracketed(class) => self.bracketed_size(class),
            Ast::Repetition(repetition) => self.repetition_size(repetition, repeats),
            Ast::Group(group) => self.group_size(group, repeats),
            Ast::Alternation(all) => self.sum_sizes(&all.asts, repeats),
            Ast::Concat(all) => self.sum_sizes(&all.asts, repeats),
        }
    }

    fn sum_sizes(&mut self, parts: &[Ast], repeats: u32) -> SizeResult {
        let mut sum: usize = 0;
        for part in parts {
            sum = sum.saturating_add(self.ast_size(part, repeats)?).saturating_add(1);
        }
        Ok(sum)
    }

    fn literal_size(&self, literal: &Literal) -> SizeResult {
        match literal.kind {
            LiteralKind::Verbatim | LiteralKind::Meta | LiteralKind::Superfluous | LiteralKind::Special(_) => {}
            LiteralKind::HexFixed(HexLiteralKind::X) | LiteralKind::HexBrace(HexLiteralKind::X) => {}
            _ => return Err("an escape of another dialect"),
        }
        if !literal.c.is_ascii() {
            return Err("characters beyond ASCII");
        }
        Ok(if self.folds { FOLDED } else { 1 })
    }

    fn bracketed_size(&self, class: &ClassBracketed) -> SizeResult {
        let ClassSet::Item(item) = &class.kind else { return Err("an operation on classes") };
        let inside = self.class_item(item)?;
        Ok(inside.saturating_add(if class.negated { self.wide_size() } else { 1 }))
    }

    fn class_item(&self, item: &ClassSetItem) -> SizeResult {
        let range = if self.folds { RANGE * FOLDED } else { RANGE };
        match item {
            ClassSetItem::Literal(literal) => self.literal_size(literal).map(|_| range),
            ClassSetItem::Range(ends) => {
                self.literal_size(&ends.start)?;
                self.literal_size(&ends.end)?;
                Ok(range)
            }
            ClassSetItem::Ascii(class) => Ok(5 * range + if class.negated { self.wide_size() } else { 0 }),
            ClassSetItem::Perl(class) => Ok(self.perl_size(class)),
            ClassSetItem::Union(union) => {
                let mut sum: usize = 0;
                for item in &union.items {
                    sum = sum.saturating_add(self.class_item(item)?);
                }
                Ok(sum)
            }
            ClassSetItem::Empty(_) => Err("an operation on classes"),
            ClassSetItem::Unicode(_) => Err("a class of Unicode"),
            ClassSetItem::Bracketed(_) => Err("a class inside a class"),
        }
    }

    fn perl_size(&self, class: &ClassPerl) -> usize {
        let ranges = match class.kind {
            ClassPerlKind::Digit => 1,
            ClassPerlKind::Space | ClassPerlKind::Word => 5,
        };
        let folded = if self.folds { FOLDED } else { 0 };
        ranges * RANGE + folded + if class.negated { self.wide_size() } else { 0 }
    }

    fn wide_size(&self) -> usize {
        if self.folds { WIDE_FOLDED } else { WIDE }
    }

    fn repetition_size(&mut self, repetition: &Repetition, repeats: u32) -> SizeResult {
        match &*repetition.ast {
            // RE2: "bad repetition operator", "missing argument to repetition operator".
            Ast::Repetition(_) => return Err("a repetition of a repetition"),
            Ast::Empty(_) | Ast::Flags(_) | Ast::Assertion(_) => return Err("a repetition of nothing"),
            _ => {}
        }
        let (least, most) = match repetition.op.kind {
            RepetitionKind::ZeroOrOne | RepetitionKind::ZeroOrMore | RepetitionKind::OneOrMore => {
                return Ok(self.ast_size(&repetition.ast, repeats)?.saturating_add(2));
            }
            RepetitionKind::Range(RepetitionRange::Exactly(n)) => (n, n),
            RepetitionKind::Range(RepetitionRange::AtLeast(n)) => (n, n.saturating_add(1)),
            RepetitionKind::Range(RepetitionRange::Bounded(n, m)) => (n, m),
        };
        let repeats = repeats.saturating_mul(most.max(1));
        if least > most || repeats > MAX_REPEAT {
            return Err("a repetition of more than 1000 times");
        }
        let times = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(self.ast_size(&repetition.ast, repeats)?.saturating_add(2).saturating_mul(times).saturating_add(2))
    }

    fn group_size(&mut self, group: &Group, repeats: u32) -> SizeResult {
        match &group.kind {
            GroupKind::CaptureIndex(_) => self.groups = self.groups.saturating_add(1),
            GroupKind::CaptureName { starts_with_p: true, name } if is_word(&name.name) => {
                self.groups = self.groups.saturating_add(1);
            }
            // RE2 knows (?<name>) since 2023 only.
            GroupKind::CaptureName { .. } => return Err("a group named in another dialect"),
            GroupKind::NonCapturing(flags) => self.look_at_flags(flags)?,
        }
        Ok(self.ast_size(&group.ast, repeats)?.saturating_add(2))
    }

    fn look_at_flags(&mut self, flags: &Flags) -> Result<(), &'static str> {
        for item in &flags.items {
            match item.kind {
                FlagsItemKind::Negation => {}
                FlagsItemKind::Flag(Flag::CaseInsensitive) => self.folds = true,
                FlagsItemKind::Flag(Flag::MultiLine | Flag::DotMatchesNewLine | Flag::SwapGreed) => {}
                FlagsItemKind::Flag(_) => return Err("a flag of another dialect"),
            }
        }
        Ok(())
    }
}

fn is_word(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
