package trap

import "golang.org/x/sys/unix"

const machine = unix.AUDIT_ARCH_X86_64

func allWatched() []watched {
	return append(portable(),
		watched{unix.SYS_OPEN, "open", 0, -1},
		watched{unix.SYS_MKDIR, "mkdir", 0, -1},
		watched{unix.SYS_UNLINK, "unlink", 0, -1},
		watched{unix.SYS_RENAME, "rename", 1, -1},
	)
}
