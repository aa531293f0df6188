//! From the bytes of a PE file to a mapped image.
//!
//! All work on the file's contents is done in safe code, on a [`Draft`]: an ordinary vector that looks as the image
//! will look. Only when every section has been placed, every address relocated and every import bound is it copied to
//! its place, and each section gets its protection. So a damaged file ends in an error, never in a bad access, and no
//! page is ever writable and executable at once.
//!
//! What MSVC's images have beside that needs nothing of a loader: the security cookie, which their entry point fills,
//! and Control Flow Guard's pointers, which lead to functions of the image that let everything pass until a loader sets
//! others.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ops::Range;
use std::ptr::null_mut;
use std::{fmt, io};

use object::read::pe::{
    DelayLoadImportTable, ExportTarget, ImageNtHeaders as _, ImageOptionalHeader as _, ImageThunkData as _,
    ImportTable, ImportThunkList, PeFile64,
};
use object::{FileKind, LittleEndian as LE, pe};

const PAGE: u32 = 4096;

/// More than any DLL needs, and little enough to allocate on the word of a damaged header.
const LARGEST: u32 = 512 << 20;

/// Why a file cannot be loaded, or an image not be used.
#[derive(Debug)]
pub enum Error {
    /// It does not look like a PE file.
    NotPe,
    /// It is one of 32 bits.
    Pe32,
    /// It is for another processor: the number of `IMAGE_FILE_HEADER`.
    Machine(u16),
    /// It is one, but no DLL.
    Program,
    /// Its headers give it such a size.
    ImageSize(u32),
    /// The headers lie beyond the end of file or image.
    Headers,
    /// A table in it is broken.
    Malformed(object::read::Error),
    /// A section is not as it must be.
    Section {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An address that the file gives lies outside of its image.
    Outside,
    /// It cannot be moved from the address that it was linked for.
    NoRelocations,
    /// A relocation of a type that x86_64 does not have.
    Relocation(u16),
    /// An entry point that lies outside of its code.
    NotCode {
        /// Which one.
        what: &'static str,
        /// Where it is.
        offset: u32,
    },
    /// So many bytes of thread-local variables.
    Variables(u32),
    /// It exports nothing of that name.
    NoExport(String),
    /// What it exports by that name is a function of another DLL.
    Forwarded {
        /// The export.
        name: String,
        /// DLL and function.
        to: String,
    },
    /// What it exports by that name is no code.
    NotFunction(String),
    /// The entry point has returned 0.
    Refused,
    /// Linux has refused something.
    System {
        /// What came of it.
        what: &'static str,
        /// Its reason.
        error: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPe => write!(f, "it is not a PE file, or not all of one"),
            Self::Pe32 => write!(f, "it is a 32-bit PE file; this host runs 64-bit code"),
            Self::Machine(machine) => write!(f, "it is for machine {machine:#x}, not for x86_64"),
            Self::Program => write!(f, "it is a program, not a DLL"),
            Self::ImageSize(size) => write!(f, "its headers give it a size of {size} bytes"),
            Self::Headers => write!(f, "its headers lie beyond the end of the file, or of the image"),
            Self::Malformed(error) => write!(f, "{error}"),
            Self::Section { name, problem } => write!(f, "section {name} {problem}"),
            Self::Outside => write!(f, "it refers to an address outside of its image"),
            Self::NoRelocations => write!(f, "it has no relocations, so it can run at no other address than its own"),
            Self::Relocation(kind) => write!(f, "it has a relocation of type {kind}"),
            Self::NotCode { what, offset } => write!(f, "{what} is at {offset:#x}, where no code is"),
            Self::Variables(bytes) => write!(f, "its thread-local variables take {bytes} bytes"),
            Self::NoExport(name) => write!(f, "it exports no function {name}"),
            Self::Forwarded { name, to } => write!(f, "its export {name} is a forwarder to {to}"),
            Self::NotFunction(name) => write!(f, "its export {name} is no function"),
            Self::Refused => write!(f, "its entry point says that it cannot be used"),
            Self::System { what, error } => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<object::read::Error> for Error {
    fn from(error: object::read::Error) -> Self {
        Self::Malformed(error)
    }
}

impl Error {
    fn system(what: &'static str) -> Self {
        Self::System { what, error: io::Error::last_os_error() }
    }
}

type Result<T> = std::result::Result<T, Error>;

/// What the DLL wants from another one.
pub struct ImportEntry {
    pub dll: String,
    /// `#` and a number, where it is imported by that.
    pub name: String,
    /// Where in the image the address goes.
    place: u32,
}

/// What the DLL gives to others.
pub enum Export {
    /// Here in the image.
    Address(u32),
    /// To this function of another DLL.
    Forwarder(String),
}

/// Who made the file.
#[derive(Clone, Copy)]
pub struct Linker {
    /// Its major and minor number.
    pub version: (u8, u8),
    /// Whether there is the list of tools that only Microsoft's linker writes.
    pub is_microsoft: bool,
}

impl fmt::Display for Linker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.is_microsoft { "Microsoft's" } else { "one that writes no Rich header, as GNU's" };
        write!(f, "{name}, {}.{:02}", self.version.0, self.version.1)
    }
}

/// A part of the image with a protection of its own.
#[derive(Clone)]
pub struct Region {
    pub addresses: Range<usize>,
    /// `PROT_*` of mmap(2).
    pub protection: i32,
}

/// The thread-local variables of the DLL.
struct Variables {
    /// What each thread's copy starts as.
    template: Vec<u8>,
    /// Where the DLL's code reads which of the thread's blocks is its own.
    index: u32,
}

/// An image in the making.
pub struct Draft {
    memory: Vec<u8>,
    place: Reservation,
    /// The headers, then the sections, by address.
    pub regions: Vec<Region>,
    pub imports: Vec<ImportEntry>,
    pub exports: BTreeMap<String, Export>,
    pub linker: Linker,
    entry: u32,
    variables: Option<Variables>,
    tls_callbacks: Vec<usize>,
}

impl Draft {
    /// Parses the file, lays it out, reserves the place where it is to run, and relocates it to there.
    pub fn read(file: &[u8]) -> Result<Self> {
        match FileKind::parse(file) {
            Ok(FileKind::Pe64) => {}
            Ok(FileKind::Pe32) => return Err(Error::Pe32),
            _ => return Err(Error::NotPe),
        }
        let pe = PeFile64::parse(file)?;
        let header = pe.nt_headers().optional_header();
        let machine = pe.nt_headers().file_header().machine.get(LE);
        if machine != pe::IMAGE_FILE_MACHINE_AMD64 {
            return Err(Error::Machine(machine));
        }
        let characteristics = pe.nt_headers().file_header().characteristics.get(LE);
        if characteristics & pe::IMAGE_FILE_DLL == 0 {
            return Err(Error::Program);
        }
        let size = header.size_of_image();
        if size == 0 || size > LARGEST || size % PAGE != 0 {
            return Err(Error::ImageSize(size));
        }

        let version = (header.major_linker_version(), header.minor_linker_version());
        let mut draft = Self {
            memory: vec![0; size as usize],
            place: Reservation::new(size as usize)?,
            regions: Vec::new(),
            imports: Vec::new(),
            exports: BTreeMap::new(),
            linker: Linker { version, is_microsoft: pe.rich_header_info().is_some() },
            entry: header.address_of_entry_point(),
            variables: None,
            tls_callbacks: Vec::new(),
        };
        draft.place_sections(&pe, file)?;
        draft.imports = draft.read_imports(&pe)?;
        draft.imports.extend(draft.read_delayed_imports(&pe)?);
        draft.read_exports(&pe)?;
        if draft.entry != 0 {
            draft.check_code(draft.entry, "the entry point")?;
        }
        let moved = (draft.place.base() as u64).wrapping_sub(header.image_base());
        draft.relocate(&pe, file, moved, characteristics & pe::IMAGE_FILE_RELOCS_STRIPPED != 0)?;
        draft.read_tls(&pe)?;
        Ok(draft)
    }

    fn place_sections(&mut self, pe: &PeFile64<'_>, file: &[u8]) -> Result<()> {
        let headers = pe.nt_headers().optional_header().size_of_headers();
        let bytes = file.get(..headers as usize).ok_or(Error::Headers)?;
        self.bytes_mut(0, bytes.len()).map_err(|_| Error::Headers)?.copy_from_slice(bytes);
        let mut end = round_up(headers)?;
        self.regions.push(self.region(0, end, libc::PROT_READ));

        for section in pe.section_table().iter() {
            let wrong = |problem| Error::Section { name: section.raw_name().escape_ascii().to_string(), problem };
            let (start, stored) = (section.virtual_address.get(LE), section.size_of_raw_data.get(LE));
            let size = match section.virtual_size.get(LE) {
                0 => stored,
                size => size,
            };
            if start % PAGE != 0 || start < end {
                return Err(wrong("starts inside of a page, or of another section"));
            }
            let last = start.checked_add(size).map(round_up);
            end = last.and_then(Result::ok).ok_or_else(|| wrong("lies outside of the image"))?;
            if end as usize > self.memory.len() {
                return Err(wrong("lies outside of the image"));
            }
            if stored != 0 {
                let offset = section.pointer_to_raw_data.get(LE) as usize;
                let bytes = offset.checked_add(stored as usize).and_then(|end| file.get(offset..end));
                let bytes = bytes.ok_or_else(|| wrong("lies beyond the end of the file"))?;
                let bytes = bytes.get(..stored.min(size) as usize).unwrap_or_default();
                self.bytes_mut(start, bytes.len())?.copy_from_slice(bytes);
            }
            let flags = section.characteristics.get(LE);
            let protection = match (flags & pe::IMAGE_SCN_MEM_WRITE != 0, flags & pe::IMAGE_SCN_MEM_EXECUTE != 0) {
                (true, true) => return Err(wrong("wants to be writable and executable")),
                (true, false) => libc::PROT_READ | libc::PROT_WRITE,
                (false, true) => libc::PROT_READ | libc::PROT_EXEC,
                (false, false) => libc::PROT_READ,
            };
            self.regions.push(self.region(start, end, protection));
        }
        Ok(())
    }

    fn relocate(&mut self, pe: &PeFile64<'_>, file: &[u8], moved: u64, stripped: bool) -> Result<()> {
        if stripped && moved != 0 {
            return Err(Error::NoRelocations);
        }
        let Some(mut blocks) = pe.data_directories().relocation_blocks(file, &pe.section_table())? else {
            return Ok(());
        };
        while let Some(block) = blocks.next()? {
            for relocation in block {
                match relocation.typ {
                    pe::IMAGE_REL_BASED_ABSOLUTE => {}
                    pe::IMAGE_REL_BASED_DIR64 => {
                        let address = self.word(relocation.virtual_address)?.wrapping_add(moved);
                        self.set_word(relocation.virtual_address, address)?;
                    }
                    other => return Err(Error::Relocation(other)),
                }
            }
        }
        Ok(())
    }

    /// The tables are read from the image, where they may be spread over all sections.
    fn read_imports(&self, pe: &PeFile64<'_>) -> Result<Vec<ImportEntry>> {
        let mut imports = Vec::new();
        let Some(directory) = pe.data_directory(pe::IMAGE_DIRECTORY_ENTRY_IMPORT) else { return Ok(imports) };
        let table = ImportTable::new(&self.memory, 0, directory.virtual_address.get(LE));
        let mut descriptors = table.descriptors()?;
        while let Some(descriptor) = descriptors.next()? {
            let place = descriptor.first_thunk.get(LE);
            let names = match descriptor.original_first_thunk.get(LE) {
                0 => place,
                names => names,
            };
            let name_at = |address| Ok(table.hint_name(address)?.1);
            let dll = table.name(descriptor.name.get(LE))?;
            self.read_thunks(dll, place, table.thunks(names)?, name_at, &mut imports)?;
        }
        Ok(imports)
    }

    /// Windows binds these when they are first called. Here they are bound as all others are, and the helper that the
    /// linker has put into the DLL is never asked.
    fn read_delayed_imports(&self, pe: &PeFile64<'_>) -> Result<Vec<ImportEntry>> {
        let mut imports = Vec::new();
        let Some(directory) = pe.data_directory(pe::IMAGE_DIRECTORY_ENTRY_DELAY_IMPORT) else { return Ok(imports) };
        let table = DelayLoadImportTable::new(&self.memory, 0, directory.virtual_address.get(LE));
        let mut descriptors = table.descriptors()?;
        while let Some(descriptor) = descriptors.next()? {
            let place = descriptor.import_address_table_rva.get(LE);
            let thunks = table.thunks(descriptor.import_name_table_rva.get(LE))?;
            let name_at = |address| Ok(table.hint_name(address)?.1);
            let dll = table.name(descriptor.dll_name_rva.get(LE))?;
            self.read_thunks(dll, place, thunks, name_at, &mut imports)?;
        }
        Ok(imports)
    }

    fn read_thunks<'f>(
        &self,
        dll: &[u8],
        mut place: u32,
        mut thunks: ImportThunkList<'f>,
        name_at: impl Fn(u32) -> Result<&'f [u8]>,
        imports: &mut Vec<ImportEntry>,
    ) -> Result<()> {
        while let Some(thunk) = thunks.next::<pe::ImageNtHeaders64>()? {
            let name = match thunk.is_ordinal() {
                true => format!("#{}", thunk.ordinal()),
                false => name_at(thunk.address())?.escape_ascii().to_string(),
            };
            self.word(place)?;
            imports.push(ImportEntry { dll: dll.escape_ascii().to_string(), name, place });
            place = place.checked_add(8).ok_or(Error::Outside)?;
        }
        Ok(())
    }

    fn read_exports(&mut self, pe: &PeFile64<'_>) -> Result<()> {
        let Some(table) = pe.export_table()? else { return Ok(()) };
        for export in table.exports()? {
            let name = match export.name {
                Some(name) => name.escape_ascii().to_string(),
                None => format!("#{}", export.ordinal),
            };
            let function = |library: &[u8], function: String| format!("{}.{function}", library.escape_ascii());
            let export = match export.target {
                ExportTarget::Address(address) => Export::Address(address),
                ExportTarget::ForwardByName(library, name) => {
                    Export::Forwarder(function(library, name.escape_ascii().to_string()))
                }
                ExportTarget::ForwardByOrdinal(library, number) => {
                    Export::Forwarder(function(library, format!("#{number}")))
                }
            };
            self.exports.insert(name, export);
        }
        Ok(())
    }

    /// The TLS directory holds addresses, so it is read from the relocated image.
    fn read_tls(&mut self, pe: &PeFile64<'_>) -> Result<()> {
        let Some(directory) = pe.data_directory(pe::IMAGE_DIRECTORY_ENTRY_TLS) else { return Ok(()) };
        let (start, size) = directory.address_range();
        if start == 0 || size == 0 {
            return Ok(());
        }
        let field = |index: u32| self.word(start.checked_add(8 * index).ok_or(Error::Outside)?);
        let (first, last) = (self.offset_of(field(0)?)?, self.offset_of(field(1)?)?);
        let length = last.checked_sub(first).ok_or(Error::Outside)?;
        let mut template = self.bytes(first, length as usize)?.to_vec();
        let zeros = field(4)? as u32;
        if zeros > LARGEST {
            return Err(Error::Variables(zeros));
        }
        template.resize(template.len() + zeros as usize, 0);

        let (index, callbacks) = (self.offset_of(field(2)?)?, field(3)?);
        self.bytes(index, 4)?;
        self.variables = Some(Variables { template, index });
        if callbacks != 0 {
            let mut next = self.offset_of(callbacks)?;
            loop {
                let address = self.word(next)?;
                if address == 0 {
                    break;
                }
                self.check_code(self.offset_of(address)?, "a TLS callback")?;
                self.tls_callbacks.push(address as usize);
                next = next.checked_add(8).ok_or(Error::Outside)?;
            }
        }
        Ok(())
    }

    /// What a thread's copy of the thread-local variables starts as, if there are any.
    pub fn variables(&self) -> Option<&[u8]> {
        self.variables.as_ref().map(|variables| variables.template.as_slice())
    }

    /// Tells the DLL which of a thread's blocks holds its variables.
    pub fn number_variables(&mut self, number: u32) -> Result<()> {
        let index = self.variables.as_ref().ok_or(Error::Outside)?.index;
        self.bytes_mut(index, 4)?.copy_from_slice(&number.to_le_bytes());
        Ok(())
    }

    /// Puts the address of a function where the DLL's code will look for this import.
    pub fn bind(&mut self, import: usize, address: usize) -> Result<()> {
        let place = self.imports.get(import).ok_or(Error::Outside)?.place;
        self.set_word(place, address as u64)
    }

    /// Copies the draft to its place and protects it.
    pub fn load(self) -> Result<Image> {
        let Self { memory, place, regions, exports, entry, variables, tls_callbacks, .. } = self;
        // SAFETY: the reservation is as long as the draft, writable, and nobody else knows of it yet.
        unsafe { place.start.copy_from_nonoverlapping(memory.as_ptr(), memory.len()) };
        // What lies between the sections is only readable.
        let all = Region { addresses: place.base()..place.base() + place.size, protection: libc::PROT_READ };
        for region in std::iter::once(&all).chain(&regions) {
            let Range { start, end } = region.addresses.clone();
            // SAFETY: the region lies in the reservation, whose pages hold nothing but this image.
            if unsafe { libc::mprotect(start as *mut c_void, end - start, region.protection) } != 0 {
                return Err(Error::system("cannot protect the image"));
            }
        }
        let base = place.base();
        let entry = (entry != 0).then_some(base + entry as usize);
        Ok(Image {
            place,
            regions,
            exports,
            entries: Entries { base, entry, has_variables: variables.is_some(), tls_callbacks },
        })
    }

    fn region(&self, start: u32, end: u32, protection: i32) -> Region {
        Region { addresses: self.place.base() + start as usize..self.place.base() + end as usize, protection }
    }

    fn check_code(&self, offset: u32, what: &'static str) -> Result<()> {
        match executable(&self.regions, self.place.base() + offset as usize) {
            true => Ok(()),
            false => Err(Error::NotCode { what, offset }),
        }
    }

    /// From an address in the relocated image to an offset into it.
    fn offset_of(&self, address: u64) -> Result<u32> {
        let offset = address.checked_sub(self.place.base() as u64).and_then(|offset| offset.try_into().ok());
        offset.ok_or(Error::Outside)
    }

    fn bytes(&self, offset: u32, length: usize) -> Result<&[u8]> {
        self.memory.get(offset as usize..).and_then(|rest| rest.get(..length)).ok_or(Error::Outside)
    }

    fn bytes_mut(&mut self, offset: u32, length: usize) -> Result<&mut [u8]> {
        self.memory.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..length)).ok_or(Error::Outside)
    }

    fn word(&self, offset: u32) -> Result<u64> {
        self.bytes(offset, 8)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).ok_or(Error::Outside)
    }

    fn set_word(&mut self, offset: u32, word: u64) -> Result<()> {
        self.bytes_mut(offset, 8)?.copy_from_slice(&word.to_le_bytes());
        Ok(())
    }
}

fn round_up(size: u32) -> Result<u32> {
    size.checked_next_multiple_of(PAGE).ok_or(Error::Outside)
}

fn executable(regions: &[Region], address: usize) -> bool {
    regions.iter().any(|region| region.protection & libc::PROT_EXEC != 0 && region.addresses.contains(&address))
}

/// A DLL in its place, ready to run.
pub struct Image {
    place: Reservation,
    regions: Vec<Region>,
    exports: BTreeMap<String, Export>,
    /// The functions that hear of processes and threads.
    pub(crate) entries: Entries,
}

impl Image {
    /// The address of an exported function.
    ///
    /// # Errors
    /// [`Error::NoExport`], [`Error::Forwarded`], [`Error::NotFunction`].
    pub fn function(&self, name: &str) -> Result<usize> {
        let offset = match self.exports.get(name) {
            None => return Err(Error::NoExport(name.into())),
            Some(Export::Forwarder(to)) => return Err(Error::Forwarded { name: name.into(), to: to.clone() }),
            Some(Export::Address(offset)) => *offset,
        };
        let address = self.place.base() + offset as usize;
        match executable(&self.regions, address) {
            true => Ok(address),
            false => Err(Error::NotFunction(name.into())),
        }
    }

    /// All, by name; `#` and a number for those that have none.
    pub fn exports(&self) -> &BTreeMap<String, Export> {
        &self.exports
    }

    /// In bytes of memory.
    pub fn size(&self) -> usize {
        self.place.size
    }
}

/// The functions of an image that hear of processes and threads.
#[derive(Clone)]
pub struct Entries {
    base: usize,
    entry: Option<usize>,
    /// Whether there are thread-local variables.
    pub has_variables: bool,
    tls_callbacks: Vec<usize>,
}

/// Why the entry point is called: "DllMain entry point", `fdwReason`.
#[derive(Clone, Copy, PartialEq)]
pub enum Reason {
    ProcessDetach = 0,
    ProcessAttach = 1,
    ThreadAttach = 2,
    ThreadDetach = 3,
}

impl Entries {
    /// Runs the TLS callbacks and the entry point.
    ///
    /// # Safety
    /// The image must be there and its imports bound to functions of their types, and GS must point to a thread
    /// environment block.
    pub unsafe fn notify(&self, reason: Reason) -> Result<()> {
        type TlsCallback = unsafe extern "win64" fn(*mut c_void, u32, *mut c_void);
        type Entry = unsafe extern "win64" fn(*mut c_void, u32, *mut c_void) -> i32;
        let image = self.base as *mut c_void;
        for callback in &self.tls_callbacks {
            // SAFETY: `read_tls` has found it in this image's code; the type is PIMAGE_TLS_CALLBACK.
            unsafe { std::mem::transmute::<usize, TlsCallback>(*callback)(image, reason as u32, null_mut()) };
        }
        let Some(entry) = self.entry else { return Ok(()) };
        // SAFETY: `read` has found it in this image's code; the type is DllMain's.
        let result = unsafe { std::mem::transmute::<usize, Entry>(entry)(image, reason as u32, null_mut()) };
        match (reason, result) {
            (Reason::ProcessAttach, 0) => Err(Error::Refused),
            _ => Ok(()),
        }
    }
}

/// Anonymous memory that goes away with its owner.
struct Reservation {
    start: *mut u8,
    size: usize,
}

impl Reservation {
    fn new(size: usize) -> Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses, touches nobody's memory.
        let start = unsafe { libc::mmap(null_mut(), size, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        match start {
            libc::MAP_FAILED => Err(Error::system("no memory for the image")),
            start => Ok(Self { start: start.cast(), size }),
        }
    }

    fn base(&self) -> usize {
        self.start.expose_provenance()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: it is this owner's mapping; what borrowed from it is gone.
        unsafe { libc::munmap(self.start.cast(), self.size) };
    }
}

/// A structure `Exports` of functions: each line is an export's name and type, as the library's header declares it.
#[macro_export]
macro_rules! exports {
    ($($name:ident: ($($type:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        /// The functions of the DLL.
        #[allow(non_snake_case)]
        pub struct Exports {
            $($name: unsafe extern "win64" fn($($type),*) $(-> $result)?,)*
        }

        impl Exports {
            /// Those of this image, which must be the library's.
            ///
            /// # Errors
            /// One of them is not there.
            pub fn of(image: &$crate::Image) -> ::std::result::Result<Self, $crate::Error> {
                Ok(Self {
                    $($name: {
                        let address = image.function(stringify!($name))?;
                        // SAFETY: it is the address of code, and the header gives a function of this name this type.
                        unsafe {
                            ::std::mem::transmute::<usize, unsafe extern "win64" fn($($type),*) $(-> $result)?>(address)
                        }
                    },)*
                })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A real one, of Debian's package libz-mingw-w64.
    fn dll() -> Vec<u8> {
        std::fs::read("/usr/x86_64-w64-mingw32/lib/zlib1.dll").expect("this test needs the package libz-mingw-w64")
    }

    /// What comes of the file when some bytes are others.
    fn read_with(offset: usize, bytes: &[u8]) -> Result<Draft> {
        let mut file = dll();
        file[offset..][..bytes.len()].copy_from_slice(bytes);
        Draft::read(&file)
    }

    #[test]
    fn what_is_wrong_with_a_file_is_an_error_of_its_own() {
        let header = u32::from_le_bytes(dll()[0x3c..0x40].try_into().unwrap()) as usize;
        // After signature, `IMAGE_FILE_HEADER` and `IMAGE_OPTIONAL_HEADER64`.
        let (file, optional, sections) = (header + 4, header + 24, header + 24 + 240);
        assert!(Draft::read(&dll()).is_ok());
        assert!(matches!(read_with(0, b"ZM"), Err(Error::NotPe)));
        assert!(matches!(read_with(optional, &0x10b_u16.to_le_bytes()), Err(Error::Pe32)));
        assert!(matches!(read_with(file, &0xaa64_u16.to_le_bytes()), Err(Error::Machine(0xaa64))));
        assert!(matches!(read_with(file + 18, &0x22_u16.to_le_bytes()), Err(Error::Program)));
        assert!(matches!(read_with(file + 18, &0x2023_u16.to_le_bytes()), Err(Error::NoRelocations)));
        assert!(matches!(read_with(optional + 16, &8_u32.to_le_bytes()), Err(Error::NotCode { offset: 8, .. })));
        assert!(matches!(read_with(optional + 56, &0x1001_u32.to_le_bytes()), Err(Error::ImageSize(0x1001))));
        assert!(matches!(read_with(optional + 60, &u32::MAX.to_le_bytes()), Err(Error::Headers)));
        // The exports, and the imports, far behind the end; the first section, inside a page; writable code.
        assert!(matches!(read_with(optional + 112, &0x7fff_0000_u32.to_le_bytes()), Err(Error::Malformed(_))));
        assert!(matches!(read_with(optional + 120, &0x7fff_0000_u32.to_le_bytes()), Err(Error::Malformed(_))));
        assert!(matches!(read_with(sections + 12, &0x1001_u32.to_le_bytes()), Err(Error::Section { .. })));
        assert!(matches!(read_with(sections + 36, &0xe000_0020_u32.to_le_bytes()), Err(Error::Section { .. })));
        assert!(matches!(Draft::read(&dll()[..60_000]), Err(Error::Section { .. })));
    }

    #[test]
    fn damage_anywhere_ends_in_an_error_or_in_none() {
        let (headers, step) = (0x600, 4);
        let elsewhere = (headers..dll().len() - 4).step_by(997);
        let mut errors = 0;
        for offset in (0..headers).step_by(step).chain(elsewhere) {
            for value in [0, 0x8000, u32::MAX] {
                errors += u32::from(read_with(offset, &value.to_le_bytes()).is_err());
            }
        }
        assert!(errors > 50, "only {errors} files were refused");
    }

    #[test]
    fn names_may_lie_in_any_section() {
        let file = dll();
        let pe = PeFile64::parse(&*file).unwrap();
        let imports = pe.data_directory(pe::IMAGE_DIRECTORY_ENTRY_IMPORT).unwrap();
        let (offset, _) = imports.file_range(&pe.section_table()).unwrap();
        // The first DLL's name is, in another section, that of this one.
        let name = pe.export_table().unwrap().unwrap().directory().name.get(LE);
        let draft = read_with(offset as usize + 12, &name.to_le_bytes()).unwrap();
        assert_eq!(draft.imports[0].dll, "zlib1.dll");
    }

    #[test]
    fn exports_are_found_by_name() {
        let image = Draft::read(&dll()).unwrap().load().unwrap();
        assert!(image.function("zlibVersion").is_ok());
        assert!(matches!(image.function("no such"), Err(Error::NoExport(name)) if name == "no such"));
    }
}
