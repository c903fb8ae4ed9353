//! ioctl(2): what every file answers alike; the rest is the file's own.

use abi::Errno;

use super::{Args, SysResult};
use crate::kernel::Current;
use crate::vfs::{FileDescription, FileType, OpenFlags};

/// `FIOQSIZE`: the size of a file that has one.
const FIOQSIZE: u64 = 0x5460;

/// `S_IFMT` of a file's mode: what anonymous inodes stand for has none.
fn file_type(file: &FileDescription) -> Result<u32, Errno> {
    match file.inode()?.file_type() {
        FileType::Regular => Ok(file.attr()?.mode & libc::S_IFMT),
        FileType::Directory => Ok(libc::S_IFDIR),
        FileType::Symlink => Ok(libc::S_IFLNK),
        _ => Ok(0),
    }
}

/// ioctl(2)
pub fn ioctl(cur: &mut Current, args: &Args) -> SysResult {
    let fd = args.int(0);
    let file = cur.files.get(fd)?;
    if file.flags().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    let (cmd, arg) = (args.uint(1), args.u64(2));
    match u64::from(cmd) {
        libc::FIOCLEX => cur.files.set_cloexec(fd, true)?,
        libc::FIONCLEX => cur.files.set_cloexec(fd, false)?,
        libc::FIONBIO | libc::FIOASYNC => {
            let on = cur.mm.read_obj::<i32>(arg)? != 0;
            let flag = match u64::from(cmd) {
                libc::FIONBIO => OpenFlags::NONBLOCK,
                _ => OpenFlags::ASYNC,
            };
            let mut flags = file.flags();
            flags.set(flag, on);
            file.set_flags(&cur.kernel, fd, flags);
        }
        FIOQSIZE => match file_type(&file)? {
            libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK => {
                cur.mm.write_obj(arg, &file.attr()?.size)?;
            }
            _ => return Err(Errno::ENOTTY),
        },
        libc::FIONREAD if file_type(&file)? == libc::S_IFREG => {
            let left = file.attr()?.size.saturating_sub(*file.pos().lock());
            cur.mm.write_obj(arg, &(left as i32))?;
        }
        _ => return file.ops().ioctl(cur, cmd, arg).map(|v| v as u64),
    }
    Ok(0)
}
