package nbd

// check translates a request and says why it is refused, if it is. The order of the checks
// decides which of several errors a client sees.
func (e *export) check(h header) (Command, *requestError) {
	cmd := e.command(h.command)
	if cmd == 0 {
		return 0, errUnknownCommand
	}
	changes := cmd == CmdWrite || cmd == CmdTrim || cmd == CmdWriteZeroes
	switch {
	case changes && e.info.ReadOnly:
		return cmd, errReadOnly
	case !e.offers(cmd):
		return cmd, errUnknownCommand
	case h.flags&^e.flagsOf(cmd) != 0:
		return cmd, errUnknownFlags
	case cmd == CmdFlush:
		return cmd, nil
	case cmd == CmdBlockStatus && !e.status:
		return cmd, errNoContext
	case cmd == CmdBlockStatus && h.length == 0:
		return cmd, errEmptyStatus
	}
	return cmd, e.checkRange(cmd, h.offset, uint64(h.length))
}

func (e *export) checkRange(cmd Command, off, length uint64) *requestError {
	mask := uint64(e.info.MinBlock) - 1
	switch {
	case off&mask != 0 || length&mask != 0:
		return errMisaligned
	case (cmd == CmdRead || cmd == CmdWrite) && length > uint64(e.info.MaxPayload):
		return errTooLarge
	case off > e.info.Size || length > e.info.Size-off:
		if cmd == CmdWrite || cmd == CmdWriteZeroes {
			return errPastEndWrite
		}
		return errPastEnd
	}
	return nil
}

// command translates a request type; 0 is one that we do not know.
func (e *export) command(wire uint16) Command {
	switch wire {
	case wireRead:
		return CmdRead
	case wireWrite:
		return CmdWrite
	case wireFlush:
		return CmdFlush
	case wireTrim:
		return CmdTrim
	case wireWriteZeroes:
		return CmdWriteZeroes
	case wireBlockStatus:
		return CmdBlockStatus
	}
	return 0
}

// offers says whether the client was told that it may use cmd.
func (e *export) offers(cmd Command) bool {
	switch cmd {
	case CmdFlush:
		return e.info.Flush
	case CmdTrim:
		return e.info.Trim
	case CmdWriteZeroes:
		return e.info.WriteZeroes
	}
	return true
}

// flagsOf returns the flags that the client may set on cmd. FUA, once offered, is allowed on
// every command and means nothing on those that change nothing.
func (e *export) flagsOf(cmd Command) (flags uint16) {
	if e.info.FUA {
		flags |= cmdFlagFUA
	}
	switch cmd {
	case CmdRead:
		if e.structured {
			flags |= cmdFlagDF // always honoured: a read is answered in one chunk
		}
	case CmdWriteZeroes:
		flags |= cmdFlagNoHole
		if e.info.FastZero {
			flags |= cmdFlagFastZero
		}
	case CmdBlockStatus:
		flags |= cmdFlagReqOne
	}
	return flags
}
