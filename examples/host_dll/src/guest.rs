//! One DLL, from its file to `DLL_PROCESS_DETACH`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::host::Host;
use crate::image::{Draft, Image, Linker, Reason};
use crate::imports::{Bound, Import};
use crate::thread;

/// A DLL, and what it has of this host.
pub struct Guest {
    /// Its file.
    pub path: PathBuf,
    /// The part of Windows that it sees.
    pub host: &'static Host,
    /// What it imports, and what stands for that.
    pub imports: Vec<(&'static Import, Bound)>,
    /// Its code and data.
    pub image: Image,
    /// Who made it.
    pub linker: Linker,
}

impl Guest {
    /// Maps the DLL, and binds its imports. Nothing of it runs yet.
    ///
    /// # Errors
    /// The file cannot be read or loaded, or the table of callbacks is full.
    pub fn load(path: &Path) -> Result<Self> {
        let about = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let file = fs::read(path).map_err(|error| about(&error))?;
        let mut draft = Draft::read(&file).map_err(|error| about(&error))?;
        let host = Host::new(draft.regions.clone());
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned().leak();
        let mut imports = Vec::new();
        for index in 0..draft.imports.len() {
            let entry = &draft.imports[index];
            let import = Import::new(host, name, &entry.dll, &entry.name);
            let bound = import.bind().map_err(|error| about(&error))?;
            draft.bind(index, bound.address()).map_err(|error| about(&error))?;
            imports.push((import, bound));
        }
        if let Some(template) = draft.variables() {
            let number = thread::add_variables(template);
            draft.number_variables(number).map_err(|error| about(&error))?;
        }
        let linker = draft.linker;
        let image = draft.load().map_err(|error| about(&error))?;
        let _ = host.entries.set(image.entries.clone());
        Ok(Self { path: path.into(), host, imports, image, linker })
    }

    /// Runs the DLL's entry point, for `DLL_PROCESS_ATTACH`.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused).
    ///
    /// # Safety
    /// The thread must have entered after the DLL was loaded.
    pub unsafe fn attach(&self) -> Result<()> {
        // SAFETY: the imports are bound to functions of their names' types, and GS points to the thread's block.
        let result = unsafe { self.image.entries.notify(Reason::ProcessAttach) };
        Ok(result.map_err(|error| format!("{}: {error}", self.path.display()))?)
    }

    /// The same for `DLL_PROCESS_DETACH`.
    ///
    /// # Errors
    /// None.
    ///
    /// # Safety
    /// As for [`Self::attach`].
    pub unsafe fn detach(&self) -> Result<()> {
        // SAFETY: as above.
        Ok(unsafe { self.image.entries.notify(Reason::ProcessDetach) }?)
    }
}
