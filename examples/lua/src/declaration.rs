//! Type strings.
//!
//! ```text
//! declaration = [convention] result "(" [parameter {"," parameter}] ")"
//! convention  = "win64" | "stdcall" | "cdecl" | "thiscall" | "fastcall"
//! result      = "void" | type
//! parameter   = type | "fn" declaration
//! type        = "bool" | "i8" | "u8" | "i16" | "u16" | "i32" | "u32" | "i64" | "u64" | "isize" | "usize"
//!             | "f32" | "f64" | "pointer"
//! ```
//!
//! On x86_64 there is one convention, and as for the compilers of Windows any of the words means that one; on i686 they
//! differ, and no word means the target's own.

use std::sync::Arc;

use calltable::{Convention, Signature, Type};

use crate::Result;

/// What a type string says.
#[derive(Debug)]
pub struct Declaration {
    pub signature: Signature,
    /// By parameter: what a function given there is called like.
    pub callbacks: Vec<Option<Arc<Declaration>>>,
    /// As it was written, for messages.
    pub text: String,
}

impl Declaration {
    pub fn parse(text: &str) -> Result<Self> {
        let mut rest = Parser { rest: text };
        let declaration = rest.declaration().and_then(|declaration| match rest.peek() {
            "" => Ok(declaration),
            word => Err(format!("{word:?} comes after its end").into()),
        });
        declaration.map_err(|error| format!("type string {text:?}: {error}").into())
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// The next word or sign; nothing at the end.
    fn peek(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        let word = self.rest.find(|character: char| !character.is_ascii_alphanumeric()).unwrap_or(self.rest.len());
        let sign = self.rest.chars().next().map_or(0, char::len_utf8);
        self.rest.split_at(word.max(sign)).0
    }

    fn next(&mut self) -> &'a str {
        let word = self.peek();
        self.rest = &self.rest[word.len()..];
        word
    }

    fn declaration(&mut self) -> Result<Declaration> {
        let start = self.rest;
        let convention = convention(self.peek());
        if convention.is_some() {
            self.next();
        }
        let result = match self.next() {
            "void" => None,
            word => Some(plain(word)?),
        };
        let (mut parameters, mut callbacks) = (Vec::new(), Vec::new());
        let mut sign = self.next();
        if sign != "(" {
            return Err(format!("\"(\" is expected after the result, not {sign:?}").into());
        }
        if self.peek() == ")" {
            sign = self.next();
        }
        while sign != ")" {
            let (ty, callback) = match self.next() {
                "fn" => (Type::Pointer, Some(Arc::new(self.declaration()?))),
                word => (plain(word)?, None),
            };
            parameters.push(ty);
            callbacks.push(callback);
            sign = self.next();
            if !matches!(sign, "," | ")") {
                return Err(format!("\",\" or \")\" is expected after a parameter, not {sign:?}").into());
            }
        }
        let signature = Signature::new(convention.unwrap_or(Convention::NATIVE), &parameters, result)?;
        let text = start[..start.len() - self.rest.len()].trim().to_owned();
        Ok(Declaration { signature, callbacks, text })
    }
}

fn convention(word: &str) -> Option<Convention> {
    let convention = match word {
        "win64" => Convention::Win64,
        "stdcall" => Convention::Stdcall,
        "cdecl" => Convention::Cdecl,
        "thiscall" => Convention::Thiscall,
        "fastcall" => Convention::Fastcall,
        _ => return None,
    };
    Some(if cfg!(target_arch = "x86_64") { Convention::Win64 } else { convention })
}

fn plain(word: &str) -> Result<Type> {
    Ok(match word {
        "bool" => Type::Bool,
        "i8" => Type::I8,
        "u8" => Type::U8,
        "i16" => Type::I16,
        "u16" => Type::U16,
        "i32" => Type::I32,
        "u32" => Type::U32,
        "i64" => Type::I64,
        "u64" => Type::U64,
        "isize" => Type::ISIZE,
        "usize" => Type::USIZE,
        "f32" => Type::F32,
        "f64" => Type::F64,
        "pointer" => Type::Pointer,
        "" => return Err("it ends where a type is expected".into()),
        word => return Err(format!("{word:?} is no type").into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read() {
        let declaration = Declaration::parse(" i32 ( fn cdecl bool(pointer ,isize), u8,f64 ) ").unwrap();
        assert_eq!(declaration.signature.convention(), Convention::NATIVE);
        assert_eq!(declaration.signature.parameters(), [Type::Pointer, Type::U8, Type::F64]);
        assert_eq!(declaration.signature.result(), Some(Type::I32));
        let callback = declaration.callbacks[0].as_ref().unwrap();
        let cdecl = if cfg!(target_arch = "x86_64") { Convention::Win64 } else { Convention::Cdecl };
        assert_eq!(callback.signature.convention(), cdecl);
        assert_eq!(callback.signature.parameters(), [Type::Pointer, Type::ISIZE]);
        assert_eq!(callback.signature.result(), Some(Type::Bool));
        assert_eq!(callback.text, "cdecl bool(pointer ,isize)");
        assert!(declaration.callbacks[1].is_none());

        let nothing = Declaration::parse("void()").unwrap();
        assert_eq!((nothing.signature.parameters(), nothing.signature.result()), ([].as_slice(), None));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, reason) in [
            ("", "ends where a type is expected"),
            ("i32", "\"(\" is expected after the result, not \"\""),
            ("i33()", "\"i33\" is no type"),
            ("i32(void)", "\"void\" is no type"),
            ("i32(u8", "\",\" or \")\" is expected after a parameter, not \"\""),
            ("i32(u8,)", "\")\" is no type"),
            ("i32(fn)", "\")\" is no type"),
            ("i32() i32", "\"i32\" comes after its end"),
            ("i32(é)", "\"é\" is no type"),
        ] {
            let error = Declaration::parse(text).unwrap_err().to_string();
            assert!(error.ends_with(reason) || error.contains(reason), "{text}: {error}");
        }
        let many = format!("void({})", vec!["u8"; 256].join(","));
        assert!(Declaration::parse(&many).unwrap_err().to_string().contains("at most 255 parameters"));
    }
}
