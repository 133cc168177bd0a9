//! What a flag is, and the macro `flags!`, which makes a table of flags and the struct that argh fills with their typed
//! values from one list. Knows no flag by name. Pure.

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing: `--flag` or `--no-flag`.
    Bool,
    /// Text; the string is its placeholder in the help.
    Text(&'static str),
    /// Text that may hold secrets and is never shown.
    Secret(&'static str),
    /// One of these words.
    Enum(&'static [&'static str]),
    /// A number.
    Number,
    /// A duration in Go's form, with `d` and `w` besides.
    Duration,
}

impl Value {
    pub(super) const PATH: Value = Value::Text("file-path");
    pub(super) const CONTENT: Value = Value::Secret("content");
    pub(super) const ADDRESS: Value = Value::Text("host:port");
    pub(super) const BYTES: Value = Value::Text("bytes");
}

/// Whether Pillion has what the flag asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// As in Thanos.
    Supported,
    /// Accepted and checked, but it changes nothing.
    NoEffect,
    /// Pillion's own; Thanos has no such flag.
    Own,
}

/// Whether a flag may or must be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// At most once; the text, which may be empty, stands in when it is not given.
    Default(&'static str),
    /// At most once, and no text stands for its absence.
    Optional,
    /// Exactly once.
    Required,
    /// Any number of times.
    Repeatable,
    /// Once or more.
    RequiredRepeatable,
}

/// One flag.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag {
    /// Without the dashes.
    pub(super) name: &'static str,
    /// What it takes.
    pub(super) value: Value,
    /// Whether it may or must be given.
    pub(super) presence: Presence,
    /// Whether Pillion has it.
    pub(super) status: Status,
    /// One or two sentences for the operator.
    pub(super) help: &'static str,
    /// Not in `--help`, as in Thanos.
    pub(super) hidden: bool,
    /// The field of the typed value.
    pub(super) field: &'static str,
}

impl Flag {
    /// The text that stands in when the flag is not given; empty when nothing stands in.
    pub(super) fn default_text(&self) -> &'static str {
        match self.presence {
            Presence::Default(text) => text,
            _ => "",
        }
    }

    /// Whether it takes no value.
    pub(super) fn is_bool(&self) -> bool {
        self.value == Value::Bool
    }

    /// Whether it may be given more than once.
    pub(super) fn is_repeatable(&self) -> bool {
        matches!(self.presence, Presence::Repeatable | Presence::RequiredRepeatable)
    }

    /// Whether it must be given.
    pub(super) fn is_required(&self) -> bool {
        matches!(self.presence, Presence::Required | Presence::RequiredRepeatable)
    }

    /// The flag as argh spells it. Names cannot have a `.` or `_` there, so argh makes them from the fields.
    pub(super) fn argh_name(&self) -> String {
        format!("--{}", self.field.replace('_', "-"))
    }
}

/// A word that stands behind a command and its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arg {
    /// Its placeholder in the help.
    pub(super) name: &'static str,
    /// Whether it must be given.
    pub(super) is_required: bool,
    /// One or two sentences for the operator.
    pub(super) help: &'static str,
}

impl Arg {
    /// As the usage shows it.
    pub(super) fn spelled(&self) -> String {
        if self.is_required { format!("<{}>", self.name) } else { format!("[<{}>]", self.name) }
    }
}

/// A flag as it was given. The value of a switch is `true` or `false`.
#[derive(Debug, Clone)]
pub(super) struct Given {
    /// The flag's row of the table.
    pub(super) flag: &'static Flag,
    /// The value's text.
    pub(super) value: String,
}

/// Makes tables of flags and one struct of their typed values. An entry of a table is
///
/// `field: Type, from_str_fn(reader) = name, value, presence, status, help, hidden;`
///
/// `field` is where the typed value goes; its type is a `Vec` when the flag may be repeated and an `Option` when it may
/// be absent. `reader` is a function that reads one text; it may be left out when the type implements `FromStr`.
/// `value`, `presence` and `status` are variants of the enums with these names. The word `hidden` may be left out.
///
/// A switch is an option of argh too: it has its `true` or `false` from `--flag`, `--no-flag` or its default.
macro_rules! flags {
    (
        $(#[$doc:meta])*
        struct $Flags:ident;
        $(
            $(#[$table_doc:meta])*
            table $TABLE:ident {
                $(
                    $field:ident: $Type:ident $(<$Item:ident>)? $(, from_str_fn($reader:ident))? =
                        $name:literal,
                        $value:ident $(($value_arg:expr))?,
                        $presence:ident $(($default:literal))?,
                        $status:ident,
                        $help:literal $(, $hidden:ident)?;
                )*
            }
        )+
    ) => {
        $(#[$doc])*
        #[derive(argh::FromArgs, Debug, Clone, PartialEq)]
        pub(crate) struct $Flags {
            $($(
                #[doc = $help]
                // argh wants a description without a capital, for a help text that is never shown.
                #[argh(option, description = "see the table" $(, from_str_fn($reader))?)]
                pub $field: $Type $(<$Item>)?,
            )*)+
        }

        $(
            $(#[$table_doc])*
            pub(super) const $TABLE: &[Flag] = &[$(
                Flag {
                    name: $name,
                    value: Value::$value $(($value_arg))?,
                    presence: Presence::$presence $(($default))?,
                    status: Status::$status,
                    help: $help,
                    hidden: false $(|| flags!(@is $hidden))?,
                    field: stringify!($field),
                },
            )*];
        )+
    };
    (@is hidden) => { true };
}
pub(super) use flags;
