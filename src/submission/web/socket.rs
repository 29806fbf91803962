//! Listening sockets: TCP, and Unix sockets with the file each of them is.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};

use super::super::{SubmissionError, smtp};
use crate::config::UNIX_PATH_MAX;

/// Who may connect: everybody, as with TCP on loopback. What a client may do, its user or its token decides; the folder's
/// mode can close the socket to others.
const MODE: u32 = 0o666;

/// Opens a TCP listener at `address`, one of `all`.
pub(super) fn bind_tcp(
    door: &'static str,
    address: SocketAddr,
    all: &[SocketAddr],
) -> Result<TcpListener, SubmissionError> {
    // Alone, [::] also serves IPv4; beside 0.0.0.0 it must not, or the second bind fails.
    let v4_apart = all.contains(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())));
    smtp::bind(address, v4_apart).map_err(|source| not_bound(door, address, source))
}

/// The error that names `address` of `submission.{door}.listen`.
pub(super) fn not_bound(door: &'static str, address: SocketAddr, source: io::Error) -> SubmissionError {
    SubmissionError::Bind { door, address, source }
}

/// Opens a Unix socket at `path`. The file that a daemon now gone has left there is removed before; one that somebody
/// listens on is not.
pub(super) fn bind_unix(door: &'static str, path: &Path) -> Result<(UnixListener, SocketFile), SubmissionError> {
    let error = |source| SubmissionError::BindUnix { door, path: path.into(), source };
    if path.as_os_str().len() > UNIX_PATH_MAX {
        let why = format!("longer than the {UNIX_PATH_MAX} octets a Unix socket's path may have");
        return Err(error(io::Error::new(io::ErrorKind::InvalidInput, why)));
    }
    remove_stale(path).map_err(error)?;
    let listener = UnixListener::bind(path).map_err(error)?;
    let file = SocketFile::of(path).map_err(error)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(error)?;
    Ok((listener, file))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file of another kind"));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// The file of a Unix socket we listen on; removed when dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: another's file of the same name is left alone.
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(SocketFile { path: path.into(), identity: (metadata.dev(), metadata.ino()) })
    }

    /// Removes the file if it is still ours.
    pub(super) fn remove(&self) {
        let ours = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_respected() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("api.sock");
        let (listener, file) = bind_unix("grpc", &path).expect("free");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o666);
        let taken = bind_unix("grpc", &path).expect_err("taken").to_string();
        assert!(taken.contains("submission.grpc.listen_unix"), "{taken}");
        // Its owner dies without removing it.
        drop(listener);
        std::mem::forget(file);
        let (_listener, file) = bind_unix("grpc", &path).expect("stale");
        drop(file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn other_files_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, "precious").expect("written");
        assert!(bind_unix("grpc", &path).is_err());
        assert_eq!(fs::read_to_string(&path).expect("there"), "precious");
        let long = folder.path().join("x".repeat(120));
        assert!(bind_unix("grpc", &long).is_err());
    }
}
