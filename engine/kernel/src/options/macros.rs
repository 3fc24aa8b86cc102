//! [`options!`](crate::options): a struct and the table of its options from one declaration;
//! [`choices!`](crate::choices): an option that is one of several words.

/// Declares options; see [`options`](mod@crate::options). In front of an option stand attributes, in this order and
/// each only where it says something. First come doc comments and any number of `#[alias = ".."]`. Then come
/// `#[unit = ".."]` and `#[range(least, most)]`, in whole numbers or milliseconds. Last come `#[absent = ".."]`, what it
/// means that it is not given, and `#[example = ".."]`.
///
/// `struct Name: Default` also makes the struct's `Default`; each option then needs a default of its own, or a type
/// that has one.
#[macro_export]
macro_rules! options {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident $(: $default_trait:ident)? {
            $(
                $(#[doc = $doc:literal])*
                $(#[alias = $alias:literal])*
                $(#[unit = $unit:literal])?
                $(#[range($least:expr, $most:expr)])?
                $(#[absent = $absent:literal])?
                $(#[example = $example:literal])?
                $field_vis:vis $field:ident: $type:ty $(= $default:expr)?
            ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        $vis struct $name {
            $($(#[doc = $doc])* $field_vis $field: $type,)*
        }

        impl $crate::options::Declared for $name {
            const OPTIONS: &'static [$crate::options::OptionInfo] = &[$(
                $crate::options::OptionInfo {
                    key: stringify!($field),
                    aliases: &[$($alias),*],
                    kind: <$type as $crate::options::Setting>::KIND,
                    unit: $crate::__option!($($unit)?),
                    range: $crate::__option!($(($least, $most))?),
                    fallback: $crate::__fallback!($type, [$($absent)?], $($default)?),
                    secret: <$type as $crate::options::Setting>::SECRET,
                    doc: &[$($doc),*],
                    example: $crate::__option!($($example)?),
                },
            )*];

            fn check_ranges(&self) -> ::std::result::Result<(), $crate::ConfigError> {
                let options = <Self as $crate::options::Declared>::OPTIONS;
                $($crate::options::check_range(&self.$field, options, stringify!($field))?;)*
                Ok(())
            }
        }

        impl $crate::options::Options for $name {
            const TABLES: &'static [&'static [$crate::options::OptionInfo]] =
                &[<Self as $crate::options::Declared>::OPTIONS];

            fn fill(
                table: &$crate::options::Table,
            ) -> ::std::result::Result<Self, $crate::ConfigError> {
                let options = <Self as $crate::options::Declared>::OPTIONS;
                Ok(Self {
                    $($field: $crate::options::take(
                        table,
                        options,
                        stringify!($field),
                        $crate::__option!($($default)?),
                    )?,)*
                })
            }
        }

        $crate::__default_impl!($name $(: $default_trait)? { $($field: $type $(= $default)?),* });
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __option {
    () => {
        ::std::option::Option::None
    };
    ($value:expr) => {
        ::std::option::Option::Some($value)
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __fallback {
    ($type:ty, [$absent:literal], ) => {
        $crate::options::Fallback::Absent($absent)
    };
    ($type:ty, [], ) => {
        $crate::options::Fallback::of::<$type>()
    };
    ($type:ty, [], $default:expr) => {
        $crate::options::Fallback::Value(|| {
            let default: $type = $default;
            $crate::options::Setting::show(&default)
        })
    };
    ($type:ty, [$absent:literal], $default:expr) => {
        $crate::options::Fallback::Absent($absent)
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __default_impl {
    ($name:ident { $($rest:tt)* }) => {};
    ($name:ident: Default { $($field:ident: $type:ty $(= $default:expr)?),* }) => {
        impl ::std::default::Default for $name {
            fn default() -> Self {
                Self { $($field: $crate::__default_value!($type, $($default)?)),* }
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __default_value {
    ($type:ty, ) => {
        <$type as ::std::default::Default>::default()
    };
    ($type:ty, $default:expr) => {
        $default
    };
}

/// Makes an enum an option's type: each variant is a word, or several, of which the first is shown. Command lines read
/// it from text, too.
///
/// ```
/// #[derive(Clone, Copy, Debug, PartialEq)]
/// enum Colour { Red, Green }
///
/// thalweg_kernel::choices! { Colour: "red" | "rouge" => Colour::Red, "green" => Colour::Green }
/// ```
#[macro_export]
macro_rules! choices {
    ($type:ty: $($word:literal $(| $other:literal)* => $($variant:tt)::+),+ $(,)?) => {
        impl $crate::options::Setting for $type {
            const KIND: $crate::options::Kind = $crate::options::Kind::Choice(&[$($word),+]);

            fn read(
                value: &$crate::options::Value,
                _: &$crate::options::OptionInfo,
            ) -> ::std::result::Result<Self, $crate::options::Refusal> {
                // A number is a word, too: `qos = 1`.
                match &*value.raw.to_string() {
                    $($word $(| $other)* => Ok($($variant)::+),)+
                    _ => Err($crate::options::Refusal::Kind),
                }
            }

            fn show(&self) -> String {
                match self {
                    $($($variant)::+ => $word.to_owned(),)+
                }
            }
        }

        impl ::std::str::FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> ::std::result::Result<Self, String> {
                match text {
                    $($word $(| $other)* => Ok($($variant)::+),)+
                    _ => {
                        let kind = <Self as $crate::options::Setting>::KIND;
                        Err(format!("allowed: {}", kind.allowed()))
                    }
                }
            }
        }
    };
}
