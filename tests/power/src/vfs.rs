//! An SQLite VFS that does what the default one does, writes it down, and fails when it is told to.
//!
//! Each open file is ours with the real one's memory behind it; what changes nothing is handed through.
//! The memory that the processes of one machine share (`-shm`) is not recorded: it does not outlive them.

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rusqlite::ffi;

use crate::disk::{Shared, Step, Verdict};

/// A VFS of this name, until it is dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    vfs: *mut ffi::sqlite3_vfs,
    name: CString,
}

/// What a VFS of ours knows.
struct Context {
    shared: Arc<Shared>,
    real: *mut ffi::sqlite3_vfs,
}

/// An open file. The real one's memory follows.
#[repr(C, align(16))]
struct File {
    base: ffi::sqlite3_file,
    /// `None`: a temporary file, which nobody looks at after a power cut.
    watch: Option<Box<Watch>>,
}

struct Watch {
    shared: Arc<Shared>,
    number: usize,
}

impl Registered {
    pub(crate) fn name(&self) -> &str {
        self.name.to_str().unwrap()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: it was registered by `register`. What it points to is left behind, a few hundred octets:
        // a connection that is still open may use it.
        unsafe { ffi::sqlite3_vfs_unregister(self.vfs) };
    }
}

// SAFETY: SQLite's list of VFSs has a lock of its own, and nothing else is done with the pointer.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

/// Registers a VFS for this disk.
pub(crate) fn register(shared: &Arc<Shared>) -> Registered {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = CString::new(format!("power-{}", NUMBER.fetch_add(1, Ordering::Relaxed))).unwrap();
    // SAFETY: SQLite is initialised by the look-up; a VFS that is found stays.
    let real = unsafe {
        ffi::sqlite3_initialize();
        ffi::sqlite3_vfs_find(c"unix".as_ptr())
    };
    assert!(!real.is_null(), "SQLite has its usual VFS");
    watch_directories(real);
    // SAFETY: it is a plain structure of numbers and functions, which outlives this.
    let mut vfs = unsafe { ptr::read(real) };
    vfs.iVersion = 2;
    vfs.szOsFile += c_int::try_from(size_of::<File>()).unwrap();
    vfs.pNext = ptr::null_mut();
    vfs.zName = name.clone().into_raw();
    vfs.pAppData = Box::into_raw(Box::new(Context { shared: Arc::clone(shared), real })).cast();
    vfs.xOpen = Some(open);
    vfs.xDelete = Some(delete);
    vfs.xAccess = Some(access);
    vfs.xFullPathname = Some(full_path);
    let vfs = Box::into_raw(Box::new(vfs));
    // SAFETY: what it points to is never freed.
    let code = unsafe { ffi::sqlite3_vfs_register(vfs, 0) };
    assert_eq!(code, ffi::SQLITE_OK);
    Registered { vfs, name }
}

thread_local! {
    /// Whether SQLite has opened a directory to sync it, in the call at hand.
    static DIRECTORY: Cell<bool> = const { Cell::new(false) };
}

type OpenDirectory = unsafe extern "C" fn(*const c_char, *mut c_int) -> c_int;
static OPEN_DIRECTORY: OnceLock<OpenDirectory> = OnceLock::new();

/// SQLite syncs directories inside of other calls: this notices.
fn watch_directories(real: *mut ffi::sqlite3_vfs) {
    OPEN_DIRECTORY.get_or_init(|| {
        let name = c"openDirectory".as_ptr();
        // SAFETY: the unix VFS has both functions, and this call of the system has this type in it.
        unsafe {
            let before = ((*real).xGetSystemCall.unwrap())(real, name).unwrap();
            let ours: OpenDirectory = open_directory;
            let ours = std::mem::transmute::<OpenDirectory, unsafe extern "C" fn()>(ours);
            assert_eq!(((*real).xSetSystemCall.unwrap())(real, name, Some(ours)), ffi::SQLITE_OK);
            std::mem::transmute::<unsafe extern "C" fn(), OpenDirectory>(before)
        }
    });
}

unsafe extern "C" fn open_directory(path: *const c_char, descriptor: *mut c_int) -> c_int {
    DIRECTORY.set(true);
    match OPEN_DIRECTORY.get() {
        // SAFETY: the arguments are passed on as they came.
        Some(before) => unsafe { before(path, descriptor) },
        // Another thread is just setting it.
        None => ffi::SQLITE_CANTOPEN,
    }
}

/// # Safety
/// `vfs` is one that `register` made.
unsafe fn context<'a>(vfs: *mut ffi::sqlite3_vfs) -> &'a Context {
    // SAFETY: it was put there, and is never freed.
    unsafe { &*(*vfs).pAppData.cast::<Context>() }
}

/// # Safety
/// `path` is NULL or a C string.
unsafe fn path<'a>(path: *const c_char) -> Option<&'a Path> {
    if path.is_null() {
        return None;
    }
    // SAFETY: as the caller says.
    let path = unsafe { CStr::from_ptr(path) };
    Some(Path::new(OsStr::from_bytes(path.to_bytes())))
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite hands over a VFS of ours, a path or NULL, and memory of the size that the VFS asked
    // for, of which the part behind our own is the real file's.
    unsafe {
        let context = context(vfs);
        let watched =
            flags & (ffi::SQLITE_OPEN_MAIN_DB | ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL);
        let ours = path(name).filter(|_| watched != 0).and_then(|path| context.shared.name(path));
        (*file).pMethods = ptr::null();
        let mut state = context.shared.lock();
        let makes = flags & ffi::SQLITE_OPEN_CREATE != 0 && ours.is_some();
        if makes && state.dead && path(name).is_some_and(|path| !path.exists()) {
            return ffi::SQLITE_CANTOPEN;
        }
        let code = ((*context.real).xOpen.unwrap())(context.real, name, real(file), flags, out);
        if (*real(file)).pMethods.is_null() {
            return code;
        }
        let watch = ours.map(|name| {
            let number = state.opened(&name);
            Box::new(Watch { shared: Arc::clone(&context.shared), number })
        });
        ptr::addr_of_mut!((*file.cast::<File>()).watch).write(watch);
        (*file).pMethods = &METHODS;
        code
    }
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: as in `open`.
    unsafe {
        let context = context(vfs);
        let mut state = context.shared.lock();
        if state.dead {
            return ffi::SQLITE_IOERR_DELETE;
        }
        DIRECTORY.set(false);
        let code = ((*context.real).xDelete.unwrap())(context.real, name, sync);
        let ours = path(name).and_then(|path| context.shared.name(path));
        if code == ffi::SQLITE_OK
            && let Some(name) = ours
        {
            state.removed(&name);
            if DIRECTORY.take() {
                state.synced_directory(&context.shared.root, "");
            }
        }
        code
    }
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: as in `open`.
    unsafe {
        let real = context(vfs).real;
        ((*real).xAccess.unwrap())(real, name, flags, out)
    }
}

unsafe extern "C" fn full_path(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    size: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: as in `open`.
    unsafe {
        let real = context(vfs).real;
        ((*real).xFullPathname.unwrap())(real, name, size, out)
    }
}

/// The real file behind ours.
///
/// # Safety
/// `file` is one of ours.
unsafe fn real(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: the memory of a file has both sizes; ours keeps the alignment.
    unsafe { file.cast::<u8>().add(size_of::<File>()).cast() }
}

/// # Safety
/// `file` is one of ours and open.
unsafe fn watch<'a>(file: *mut ffi::sqlite3_file) -> Option<&'a Watch> {
    // SAFETY: as the caller says; it is dropped only by `close`.
    unsafe { (*file.cast::<File>()).watch.as_deref() }
}

/// Calls a method of the real file.
macro_rules! real {
    ($file:ident . $method:ident ( $($argument:expr),* )) => {{
        let real = real($file);
        ((*(*real).pMethods).$method.unwrap())(real, $($argument),*)
    }};
}

/// Methods that change nothing on the disk.
macro_rules! handed_through {
    ($($name:ident = $method:ident ( $($argument:ident: $type:ty),* ) $(-> $result:ty)?;)*) => {$(
        unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file, $($argument: $type),*) $(-> $result)? {
            // SAFETY: SQLite calls the methods of open files only, and the arguments are passed on.
            unsafe { real!(file.$method($($argument),*)) }
        }
    )*};
}

handed_through! {
    read = xRead(into: *mut c_void, octets: c_int, at: i64) -> c_int;
    size = xFileSize(out: *mut i64) -> c_int;
    lock = xLock(level: c_int) -> c_int;
    unlock = xUnlock(level: c_int) -> c_int;
    reserved = xCheckReservedLock(out: *mut c_int) -> c_int;
    control = xFileControl(what: c_int, argument: *mut c_void) -> c_int;
    sector = xSectorSize() -> c_int;
    traits = xDeviceCharacteristics() -> c_int;
    shm_map = xShmMap(page: c_int, size: c_int, extend: c_int, out: *mut *mut c_void) -> c_int;
    shm_lock = xShmLock(at: c_int, n: c_int, flags: c_int) -> c_int;
    shm_barrier = xShmBarrier();
    shm_unmap = xShmUnmap(delete: c_int) -> c_int;
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes an open file once.
    unsafe {
        drop(ptr::addr_of_mut!((*file.cast::<File>()).watch).read());
        real!(file.xClose())
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    octets: c_int,
    at: i64,
) -> c_int {
    // SAFETY: SQLite writes `octets` octets of an open file.
    unsafe {
        let Some(watch) = watch(file) else { return real!(file.xWrite(from, octets, at)) };
        let mut state = watch.shared.lock();
        if state.dead {
            return ffi::SQLITE_IOERR_WRITE;
        }
        let verdict = state.next_write();
        if state.dead {
            return ffi::SQLITE_IOERR_WRITE;
        }
        let part = if verdict == Verdict::Good { octets } else { octets / 2 };
        let code = real!(file.xWrite(from, part, at));
        assert_eq!(code, ffi::SQLITE_OK, "the disk under the test has failed");
        let slice = std::slice::from_raw_parts(from.cast::<u8>(), usize::try_from(part).unwrap());
        state.wrote(watch.number, u64::try_from(at).unwrap(), slice);
        match verdict {
            Verdict::Good => ffi::SQLITE_OK,
            Verdict::Full => ffi::SQLITE_FULL,
            Verdict::Broken => ffi::SQLITE_IOERR_WRITE,
        }
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: as in `write`.
    unsafe {
        let Some(watch) = watch(file) else { return real!(file.xTruncate(size)) };
        let mut state = watch.shared.lock();
        if state.dead {
            return ffi::SQLITE_IOERR_TRUNCATE;
        }
        let code = real!(file.xTruncate(size));
        if code == ffi::SQLITE_OK {
            let size = u64::try_from(size).unwrap();
            state.steps.push(Step::Truncate { file: watch.number, size });
        }
        code
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: as in `write`.
    unsafe {
        let Some(watch) = watch(file) else { return real!(file.xSync(flags)) };
        let mut state = watch.shared.lock();
        if state.dead {
            return ffi::SQLITE_IOERR_FSYNC;
        }
        let good = state.next_sync();
        if state.dead {
            return ffi::SQLITE_IOERR_FSYNC;
        }
        if !good {
            state.steps.push(Step::FailedSync { file: watch.number });
            return ffi::SQLITE_IOERR_FSYNC;
        }
        DIRECTORY.set(false);
        let code = real!(file.xSync(flags));
        assert_eq!(code, ffi::SQLITE_OK, "the disk under the test has failed");
        state.synced(watch.number);
        if DIRECTORY.take() {
            state.synced_directory(&watch.shared.root, "");
        }
        code
    }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // Without mapped reading, which has nothing to do with what is written.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(reserved),
    xFileControl: Some(control),
    xSectorSize: Some(sector),
    xDeviceCharacteristics: Some(traits),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
