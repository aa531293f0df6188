//! What registrations are called, for people who look for what was not released.

/// The name of a registration. Without the feature `names` it takes no room, and there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Name(#[cfg(feature = "names")] Option<&'static str>);

impl Name {
    pub(crate) const NONE: Self = Self(
        #[cfg(feature = "names")]
        None,
    );

    pub(crate) const fn new(name: &'static str) -> Self {
        let _ = name;
        Self(
            #[cfg(feature = "names")]
            Some(name),
        )
    }

    pub(crate) const fn get(self) -> Option<&'static str> {
        #[cfg(feature = "names")]
        return self.0;
        #[cfg(not(feature = "names"))]
        None
    }
}
