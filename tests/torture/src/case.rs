//! One case: a signature, how it is called and how it is registered, as a line of text. Part of the program that makes
//! the cases and of the one that runs them.

use std::fmt;

/// Bytes for one value in a block.
pub const ROOM: usize = 64;
/// How many arguments a block has room for; the result comes after them.
pub const MOST: usize = 72;

/// What the sizes of types and the places of arguments depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    pub is_64_bit: bool,
    pub is_windows: bool,
    pub is_aarch64: bool,
}

/// A type that is no structure: its name in a line, in C and in Rust, and its size; 0 for that of a pointer.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Scalar {
    pub name: &'static str,
    pub c: &'static str,
    pub rust: &'static str,
    size: usize,
}

const fn scalar(name: &'static str, c: &'static str, rust: &'static str, size: usize) -> Scalar {
    Scalar { name, c, rust, size }
}

pub const SCALARS: &[Scalar] = &[
    scalar("bool", "_Bool", "bool", 1),
    scalar("i8", "signed char", "i8", 1),
    scalar("u8", "unsigned char", "u8", 1),
    scalar("i16", "short", "i16", 2),
    scalar("u16", "unsigned short", "u16", 2),
    scalar("i32", "int", "i32", 4),
    scalar("u32", "unsigned", "u32", 4),
    scalar("i64", "long long", "i64", 8),
    scalar("u64", "unsigned long long", "u64", 8),
    scalar("i128", "__int128", "i128", 16),
    scalar("u128", "unsigned __int128", "u128", 16),
    scalar("f32", "float", "f32", 4),
    scalar("f64", "double", "f64", 8),
    scalar(F80, "long double", "", 12),
    scalar("pointer", "void *", "*mut core::ffi::c_void", 0),
    scalar("v64", "v64", "core::arch::aarch64::uint8x8_t", 8),
    scalar("v128", "v128", "core::arch::aarch64::uint8x16_t", 16),
];

/// The one for i686 alone, for which Rust has no type; in no structure.
pub const F80: &str = "f80";

/// Those of them that are vectors, on AArch64 alone.
pub const VECTORS: &[&str] = &["v64", "v128"];

/// A type; members of structures and unions are arrays if there is more than one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    Scalar(&'static Scalar),
    Struct(Vec<(Type, usize)>),
    Union(Vec<(Type, usize)>),
    /// A structure or union that as a whole is aligned to that many bytes or more, a power of two (`alignas`).
    Aligned(usize, Box<Type>),
}

/// A scalar within a type.
#[allow(dead_code, reason = "only the program that runs the cases looks at offsets")]
pub struct Leaf {
    pub offset: usize,
    pub size: usize,
    pub scalar: &'static Scalar,
}

impl Type {
    pub fn is_scalar(&self, names: &[&str]) -> bool {
        matches!(self, Self::Scalar(scalar) if names.contains(&scalar.name))
    }

    pub fn is_aggregate(&self) -> bool {
        !matches!(self, Self::Scalar(_))
    }

    /// Of a structure or union; and whether each begins where the whole does.
    pub fn members(&self) -> Option<(&Vec<(Self, usize)>, bool)> {
        match self {
            Self::Scalar(_) => None,
            Self::Struct(members) => Some((members, false)),
            Self::Union(members) => Some((members, true)),
            Self::Aligned(_, ty) => ty.members(),
        }
    }

    pub fn size(&self, platform: Platform) -> usize {
        self.layout(platform).0
    }

    /// The alignment that an argument's place depends on: on AArch64 other than on Windows what the members have, not
    /// the whole ("natural alignment" in the Procedure Call Standard).
    pub fn align(&self, platform: Platform) -> usize {
        match self {
            Self::Aligned(_, ty) if platform.is_aarch64 && !platform.is_windows => ty.layout(platform).1,
            _ => self.layout(platform).1,
        }
    }

    /// The element and the number of those of a homogeneous type: what AArch64 has a register for each of.
    pub fn homogeneous(&self, platform: Platform) -> Option<(&'static Scalar, usize)> {
        let (element, count) = self.elements()?;
        (count <= 4 && count * element.size == self.size(platform)).then_some((element, count))
    }

    fn elements(&self) -> Option<(&'static Scalar, usize)> {
        if let Self::Scalar(scalar) = self {
            return ["f32", "f64", "v64", "v128"].contains(&scalar.name).then_some((*scalar, 1));
        }
        let (members, is_union) = self.members()?;
        let mut all: Option<(&'static Scalar, usize)> = None;
        for (member, times) in members {
            let (element, count) = member.elements()?;
            let before = all.map_or(0, |(_, before)| before);
            let count = if is_union { before.max(count * times) } else { before + count * times };
            if all.is_some_and(|(other, _)| other != element) {
                return None;
            }
            all = Some((element, count));
        }
        all
    }

    /// The same with integers where floating-point numbers were.
    fn with_integers(&self) -> Self {
        let all = |members: &[(Self, usize)]| members.iter().map(|(ty, count)| (ty.with_integers(), *count)).collect();
        match self {
            Self::Scalar(Scalar { name: "f32", .. }) => Self::named("u32").expect("a scalar's name"),
            Self::Scalar(Scalar { name: "f64", .. }) => Self::named("u64").expect("a scalar's name"),
            Self::Scalar(_) => self.clone(),
            Self::Struct(members) => Self::Struct(all(members)),
            Self::Union(members) => Self::Union(all(members)),
            Self::Aligned(least, ty) => Self::Aligned(*least, Box::new(ty.with_integers())),
        }
    }

    /// A scalar, if there is one of that name.
    pub fn named(name: &str) -> Option<Self> {
        SCALARS.iter().find(|scalar| scalar.name == name).map(Self::Scalar)
    }

    /// Whether such a scalar is in it.
    pub fn has(&self, names: &[&str]) -> bool {
        self.any(&|ty| ty.is_scalar(names))
    }

    /// Whether it is such a type, or one is in it.
    pub fn any(&self, is_such: &dyn Fn(&Self) -> bool) -> bool {
        is_such(self)
            || match self {
                Self::Scalar(_) => false,
                Self::Struct(members) | Self::Union(members) => members.iter().any(|(member, _)| member.any(is_such)),
                Self::Aligned(_, ty) => ty.any(is_such),
            }
    }

    /// Size and alignment.
    fn layout(&self, platform: Platform) -> (usize, usize) {
        let (members, is_union) = match self {
            Self::Aligned(least, ty) => {
                let (size, align) = ty.layout(platform);
                let align = align.max(*least);
                return (size.next_multiple_of(align), align);
            }
            Self::Scalar(scalar) => {
                let size = match scalar.size {
                    0 if platform.is_64_bit => 8,
                    0 => 4,
                    size => size,
                };
                // System V's 32-bit rules align nothing to more than a word.
                let is_aligned = platform.is_64_bit || platform.is_windows && scalar.name != F80;
                return (size, if is_aligned { size } else { size.min(4) });
            }
            Self::Struct(members) => (members, false),
            Self::Union(members) => (members, true),
        };
        let (mut end, mut align) = (0_usize, 1);
        for (member, count) in members {
            let (size, own) = member.layout(platform);
            align = align.max(own);
            end = if is_union { end.max(size * count) } else { end.next_multiple_of(own) + size * count };
        }
        (end.next_multiple_of(align), align)
    }

    /// What is in a value at `offset`.
    pub fn leaves(&self, platform: Platform, offset: usize) -> Vec<Leaf> {
        let (members, is_union) = match self {
            Self::Scalar(scalar) => {
                let size = if scalar.name == F80 { 10 } else { self.size(platform) }; // the rest is padding
                return vec![Leaf { offset, size, scalar }];
            }
            Self::Aligned(_, ty) => return ty.leaves(platform, offset),
            Self::Struct(members) => (members, false),
            Self::Union(members) => (members, true),
        };
        let mut leaves = Vec::new();
        let mut end = 0_usize;
        for (member, count) in members {
            let (size, align) = member.layout(platform);
            let start = if is_union { 0 } else { end.next_multiple_of(align) };
            leaves.extend((0..*count).flat_map(|index| member.leaves(platform, offset + start + index * size)));
            end = start + size * count;
        }
        leaves
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, members, close) = match self {
            Self::Scalar(scalar) => return f.write_str(scalar.name),
            Self::Struct(members) => ("{", members, "}"),
            Self::Union(members) => ("<", members, ">"),
            Self::Aligned(least, ty) => return write!(f, "@{least} {ty}"),
        };
        f.write_str(open)?;
        for (member, count) in members {
            write!(f, " {member}")?;
            if *count > 1 {
                write!(f, " *{count}")?;
            }
        }
        write!(f, " {close}")
    }
}

pub const SAVES: &[&str] = &["keeping", "saving", "control"];
pub const WRECKS: &[&str] = &["intact", "volatile", "preserved", "everything"];
pub const COUNTS: &[&str] = &["uncounted", "tracked", "exclusive"];
pub const LANES: &[&str] = &["direct", "frame", "typed"];

/// A line of words: convention, the compilers of caller and handler, lanes, then an element of each of the lists above
/// and a number that the values follow from; a colon, the parameters, an arrow, the result.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Case {
    pub convention: String,
    pub caller: String,
    pub handler: String,
    pub lanes: Vec<&'static str>,
    /// What the dispatcher is asked to save.
    pub save: usize,
    /// What the handler wrecks when it has run.
    pub wreck: usize,
    pub count: usize,
    pub seed: u8,
    pub parameters: Vec<Type>,
    pub result: Option<Type>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { convention, caller, handler, save, wreck, count, seed, .. } = self;
        write!(f, "{convention} {caller} {handler} {} ", self.lanes.join("+"))?;
        write!(f, "{} {} {} {seed} :", SAVES[*save], WRECKS[*wreck], COUNTS[*count])?;
        for parameter in &self.parameters {
            write!(f, " {parameter}")?;
        }
        match &self.result {
            Some(result) => write!(f, " -> {result}"),
            None => write!(f, " -> void"),
        }
    }
}

impl Case {
    /// Reads a line; `None` if it is none.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let mut word = || words.next();
        let find = |list: &[&str], word: &str| list.iter().position(|known| *known == word);
        let mut case = Self {
            convention: word()?.into(),
            caller: word()?.into(),
            handler: word()?.into(),
            lanes: word()?.split('+').map(|lane| Some(LANES[find(LANES, lane)?])).collect::<Option<_>>()?,
            save: find(SAVES, word()?)?,
            wreck: find(WRECKS, word()?)?,
            count: find(COUNTS, word()?)?,
            seed: word()?.parse().ok()?,
            parameters: Vec::new(),
            result: None,
        };
        if word()? != ":" {
            return None;
        }
        loop {
            match word()? {
                "->" => break,
                first => case.parameters.push(parse_type(first, &mut word)?),
            }
        }
        case.result = match word()? {
            "void" => None,
            first => Some(parse_type(first, &mut word)?),
        };
        word().is_none().then_some(case)
    }

    /// Whether the result goes through memory of the caller.
    pub fn has_hidden_result(&self, platform: Platform) -> bool {
        let result = self.result.as_ref().filter(|result| result.is_aggregate());
        result.is_some_and(|result| match result.size(platform) {
            size if platform.is_aarch64 => size > 16 && result.homogeneous(platform).is_none(),
            size => !matches!(size, 1 | 2 | 4 | 8),
        })
    }

    /// Which parameters come in registers, of the integer ones on i686.
    pub fn in_registers(&self, platform: Platform) -> Vec<bool> {
        let mut free = match self.convention.as_str() {
            "thiscall" => 1,
            "fastcall" => 2,
            _ => 0,
        };
        let is_in_register = |ty: &Type| {
            let fits = !ty.is_aggregate() && ty.size(platform) <= 4 && !ty.is_scalar(&["f32"]) && free > 0;
            free -= usize::from(fits);
            fits
        };
        self.parameters.iter().map(is_in_register).collect()
    }

    /// Argument positions; on i686 words on the stack, on AArch64 registers for integers and words on the stack.
    pub fn positions(&self, platform: Platform) -> usize {
        if platform.is_aarch64 {
            return 8 + self.words_on_aarch64(platform);
        }
        let hidden = usize::from(self.has_hidden_result(platform));
        if platform.is_64_bit {
            return hidden + self.parameters.len();
        }
        let on_stack = self.parameters.iter().zip(self.in_registers(platform)).filter(|(_, in_register)| !in_register);
        hidden + on_stack.map(|(ty, _)| ty.size(platform).div_ceil(4)).sum::<usize>()
    }
}

impl Case {
    /// Whether a number of positions says where a direct handler's data goes: on i686 after the words on the stack, if
    /// no register is left for it; on AArch64 after the integers, if all are.
    #[allow(dead_code, reason = "only the program that runs the cases registers")]
    pub fn is_said_by_positions(&self, platform: Platform) -> bool {
        let registers = match self.convention.as_str() {
            "thiscall" => 1,
            "fastcall" => 2,
            _ => 0,
        };
        let in_registers = self.in_registers(platform).iter().filter(|in_register| **in_register).count();
        !platform.is_aarch64 && in_registers == registers
    }

    /// How many parameters a variadic prototype names, and a prototype of another kind has.
    #[allow(dead_code, reason = "only the program that makes the cases declares functions")]
    pub fn named_parameters(&self) -> usize {
        let count = self.parameters.len();
        if self.convention == "variadic" { count.min(1 + usize::from(self.seed % 4)) } else { count }
    }

    /// The case as the one who is called sees it: Windows on ARM64 passes floating-point numbers to variadic functions
    /// as integers, those that the prototype names, too.
    pub fn received(&self, platform: Platform) -> Self {
        let mut case = self.clone();
        if platform.is_aarch64 && platform.is_windows && self.convention == "variadic" {
            case.parameters = self.parameters.iter().map(Type::with_integers).collect();
        }
        case
    }

    /// Words of 8 bytes on the stack, by the rules of AArch64.
    pub fn words_on_aarch64(&self, platform: Platform) -> usize {
        self.places_on_aarch64(self.parameters.len(), platform).1
    }

    /// The registers for integers that the first `count` parameters take, and the words on the stack.
    fn places_on_aarch64(&self, count: usize, platform: Platform) -> (usize, usize) {
        let (mut integers, mut floats, mut words) = (0_usize, 0, 0_usize);
        for ty in &self.parameters[..count] {
            let size = ty.size(platform);
            // Registers of which class and from which on; words on the stack, and from which on.
            let (taken, count, align, own, own_align) = match ty.homogeneous(platform) {
                Some((element, count)) => (&mut floats, count, 1, size.div_ceil(8), element.size.div_ceil(8)),
                None if size > 16 => (&mut integers, 1, 1, 1, 1),
                None if ty.align(platform) == 16 => (&mut integers, 2, 2, 2, 2),
                None => (&mut integers, size.div_ceil(8), 1, size.div_ceil(8), 1),
            };
            let first = taken.next_multiple_of(align);
            *taken = first + count;
            if first + count > 8 {
                *taken = 8;
                words = words.next_multiple_of(own_align) + own;
            }
        }
        (integers, words)
    }

    /// What no signature says of AArch64: on Linux a homogeneous structure on the stack that has a member of more
    /// alignment than its elements; on Windows one of which a variadic function gets a half in X7, the other on the
    /// stack (by Microsoft's rules; Clang passes the whole on the stack).
    #[allow(dead_code, reason = "only the program that makes the cases asks")]
    pub fn is_beyond_signatures(&self, platform: Platform) -> bool {
        let received = self.received(platform);
        received.parameters.iter().enumerate().any(|(index, ty)| {
            let (integers, words) = received.places_on_aarch64(index, platform);
            let is_on_stack = words < received.places_on_aarch64(index + 1, platform).1;
            match ty.homogeneous(platform) {
                Some((element, _)) => !platform.is_windows && is_on_stack && ty.align(platform) > element.size.max(8),
                None => {
                    let is_pair = matches!(ty.size(platform), 9..=16) && ty.align(platform) < 16;
                    platform.is_windows && self.convention == "variadic" && is_pair && integers == 7
                }
            }
        })
    }
}

fn parse_type<'a>(first: &str, word: &mut dyn FnMut() -> Option<&'a str>) -> Option<Type> {
    let close = match first {
        "{" => "}",
        "<" => ">",
        aligned if aligned.starts_with('@') => {
            let least = aligned[1..].parse().ok().filter(|least: &usize| least.is_power_of_two())?;
            return Some(Type::Aligned(least, Box::new(parse_type(word()?, word)?)));
        }
        name => return Type::named(name),
    };
    let mut members: Vec<(Type, usize)> = Vec::new();
    loop {
        let next = word()?;
        if next == close {
            break;
        }
        match next.strip_prefix('*') {
            Some(count) => members.last_mut()?.1 = count.parse().ok()?,
            None => members.push((parse_type(next, word)?, 1)),
        }
    }
    Some(if close == "}" { Type::Struct(members) } else { Type::Union(members) })
}
