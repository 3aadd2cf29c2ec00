//! The process that is ClickHouse: loads `libchdb` and runs its server until the parent lets go.
//!
//! ClickHouse gets a process of its own, although it is a library, so that its memory, signal handlers and crashes
//! stay out of the pipeline's.
//!
//! Guarantee: it does not outlive its parent. Standard input is a pipe that the parent holds and never closes; a thread
//! here (the leash) waits for its end. Then it closes a second pipe, from which ClickHouse is reading in a query without
//! end, and the server stops in order; if it has not within [`STOP_BOUND`], the process kills itself. The kernel closes
//! the parent's end however the parent dies, so this holds after a kill -9 too, on every Unix.
//!
//! After a crash: ClickHouse's own; what it acknowledged is in its data directory.
//!
//! Unsafe code is allowed in this module and nowhere else in the workspace: calling into a C library needs it.

#![allow(unsafe_code)]

use std::ffi::{CString, NulError, OsString, c_char, c_int};
use std::io::{self, PipeWriter, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::confine::confine;

/// Becomes ClickHouse, and never returns, where this process was started for that: with [`CLICKHOUSE_SUBCOMMAND`] as its
/// first argument. To be called before any thread is started.
pub fn become_clickhouse_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == CLICKHOUSE_SUBCOMMAND) {
        run_clickhouse_child(arguments);
    }
}

/// The hidden subcommand with which a program is to call [`run_clickhouse_child`].
pub const CLICKHOUSE_SUBCOMMAND: &str = "embedded-clickhouse";

/// What stands in the place of the port where the server is not confined.
pub(crate) const UNCONFINED: &str = "unconfined";

/// How long the server may take to stop after the parent has let go (5 s were seen with queries in flight).
pub(crate) const STOP_BOUND: Duration = Duration::from_secs(10);

/// Reads standard input, which never has anything to say, until it ends.
const HOLDING_QUERY: &str = "SELECT * FROM file('/dev/stdin', 'LineAsString') FORMAT Null";

/// Set when the parent has let go: from then on, the server's end is what was wanted.
static RELEASED: AtomicBool = AtomicBool::new(false);

/// `int argc, char ** argv`, both kept by the caller; the answer is a result that is never freed here.
type QueryStableV2 = unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut std::ffi::c_void;

#[derive(Debug, thiserror::Error)]
enum ChildError {
    #[error("expected the library, the configuration file, the data directory, and the port or `{UNCONFINED}`")]
    Usage,
    #[error("an argument holds a NUL byte")]
    Nul(#[from] NulError),
    #[error("preparing standard input and output")]
    Io(#[from] io::Error),
    #[error("loading the ClickHouse library")]
    Load(#[from] libloading::Error),
    #[error("the server ended by itself")]
    Ended,
}

/// Is ClickHouse until the parent lets go of standard input, then ends the process. `args`, without program name and
/// subcommand: the library, the configuration file, the data directory, and the port it is confined to, or `UNCONFINED`.
///
/// Standard output may be a descriptor to be kept open as long as the process lives (a lock); what ClickHouse would
/// write there goes to standard error.
pub fn run_clickhouse_child(args: impl IntoIterator<Item = OsString>) -> ! {
    let code = match run(args.into_iter().collect()) {
        Ok(()) => 0,
        Err(error) => {
            use std::error::Error as _;
            let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            eprintln!("embedded ClickHouse: {error}{cause}");
            1
        }
    };
    std::process::exit(code)
}

fn run(args: Vec<OsString>) -> Result<(), ChildError> {
    let [library, config, data, port] = args.as_slice() else {
        return Err(ChildError::Usage);
    };
    let _kept = redirect_stdout()?;
    start_leash()?;
    // The native port stays closed, unless other servers are to ask this one: a login that is refused there ends the server.
    let mut open = "SYSTEM START LISTEN QUERIES ALL";
    if port != UNCONFINED {
        open = "SYSTEM START LISTEN HTTP";
        let port = port.to_str().and_then(|port| port.parse().ok()).ok_or(ChildError::Usage)?;
        confine_to(Path::new(library), Path::new(config), Path::new(data), port)?;
    }
    let query = format!("--query={open}; {HOLDING_QUERY}");
    serve(
        Path::new(library),
        [b"clickhouse", &option("--config-file=", config)[..], &option("--path=", data), query.as_bytes()],
    )?;
    match RELEASED.load(Ordering::Acquire) {
        true => Ok(()),
        false => Err(ChildError::Ended),
    }
}

/// Confines the server to its own files, see [`confine`]. The leash was started before: it needs no file, and no query
/// reaches it.
fn confine_to(library: &Path, config: &Path, data: &Path, port: u16) -> io::Result<()> {
    let beside = config.parent().unwrap_or(data);
    let [users, more, logs] = ["clickhouse-users.xml", "clickhouse-users.d", "logs"].map(|name| beside.join(name));
    if !confine(&[library, config, &users, &more], &[data, &logs], port)? {
        eprintln!("embedded ClickHouse: this system has no Landlock: only its grants keep queries from files");
    }
    Ok(())
}

fn option(name: &str, value: &OsString) -> Vec<u8> {
    [name.as_bytes(), value.as_bytes()].concat()
}

/// Sends standard output to standard error; returns what it was before.
fn redirect_stdout() -> io::Result<OwnedFd> {
    let kept = io::stdout().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdout(io::stderr())?;
    Ok(kept)
}

/// Puts a pipe of our own in the place of standard input and watches the parent's.
fn start_leash() -> io::Result<()> {
    let parent = std::fs::File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (held_by_query, held_by_leash) = io::pipe()?;
    nix::unistd::dup2_stdin(&held_by_query)?;
    std::thread::Builder::new().name("leash".into()).spawn(move || leash(parent, held_by_leash))?;
    Ok(())
}

fn leash(mut parent: std::fs::File, server: PipeWriter) {
    let mut byte = [0];
    loop {
        match parent.read(&mut byte) {
            // The parent has let go, or nothing can be known about it any more.
            Ok(0) => break,
            Err(e) if e.kind() != io::ErrorKind::Interrupted => break,
            Ok(_) | Err(_) => {}
        }
    }
    RELEASED.store(true, Ordering::Release);
    drop(server);
    std::thread::sleep(STOP_BOUND);
    // Still here, so the server hangs. Nothing is lost by SIGKILL that a crash would not lose, and if it should fail
    // no process is left to report to.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
}

/// Loads the library and calls its entry; returns when the server has ended.
fn serve(library: &Path, argv: [&[u8]; 4]) -> Result<(), ChildError> {
    let argv = argv.map(CString::new).into_iter().collect::<Result<Vec<_>, _>>()?;
    let argc = c_int::try_from(argv.len()).map_err(io::Error::other)?;
    // Terminated by a null pointer, as `main`'s are.
    let mut pointers: Vec<*mut c_char> = argv.iter().map(|arg| arg.as_ptr().cast_mut()).collect();
    pointers.push(std::ptr::null_mut());

    // SAFETY: loading runs the library's initialisers. It is the pinned file, verified by its sum, or one that the user
    // named; it is loaded once, and the leash is the only other thread. It is never unloaded (see below), so that
    // nothing can run code that is gone.
    let library = unsafe { libloading::Library::new(library) }?;
    // SAFETY: the symbol, if it is there, is libchdb's `local_result_v2 * query_stable_v2(int argc, char ** argv)`; the
    // type says the same, with the result opaque.
    let query_stable_v2 = unsafe { library.get::<QueryStableV2>(b"query_stable_v2\0") }?;
    // SAFETY: `pointers` are `argc` strings that end with NUL, and a null pointer after them. `argv` owns the strings
    // and lives to the end of this function; the callee parses them as a `main` does and writes to none. The process
    // has no other call into the library.
    unsafe { query_stable_v2(argc, pointers.as_mut_ptr()) };
    // The result is not freed and the library not unloaded: the process ends right after.
    std::mem::forget(library);
    Ok(())
}
