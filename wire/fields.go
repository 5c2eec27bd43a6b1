package wire

// The field lists of all control messages, in wire order. Names are those of PROTOCOL.md.

func (m *Hello) fields(c *coder) {
	c.u32("version", &m.Version)
	c.u64("features", &m.Features)
	c.u64("required", &m.Required)
	if c.decoding && c.err == nil && m.Version != Version {
		c.off = len(c.buf) // what follows is another version's affair; the handshake refuses it
		return
	}
	if odd := m.Required &^ m.Features; odd != 0 {
		c.fail("required", 12, "%#x are not among the features %#x", odd, m.Features)
	}
	at := c.pos()
	c.u8("role", (*uint8)(&m.Role))
	if m.Role < RolePrimary || m.Role > RoleTool {
		c.fail("role", at, "%d is not a role", m.Role)
	}
	c.name("node", &m.Node)
	c.uuid("instance", &m.Instance)
}

func (m *Attach) fields(c *coder) {
	c.name("group", &m.Group)
	c.uuid("stream", &m.Stream)
	n := c.count("volumes", len(m.Volumes), 1, MaxVolumes, 11)
	m.Volumes = list(c, m.Volumes, n)
	for i := range m.Volumes[:n] {
		v := &m.Volumes[i]
		c.name("volume name", &v.Name)
		at := c.pos()
		c.u64("volume size", &v.Size)
		if v.Size == 0 || v.Size%BlockSize != 0 {
			c.fail("volume size", at, "%d is not a positive multiple of %d", v.Size, BlockSize)
		}
	}
}

func (m *Attached) fields(c *coder) {
	c.u64("applied", &m.Applied)
	c.boolean("resumed", &m.Resumed)
	if !m.Resumed && m.Applied != 0 {
		c.fail("applied", 0, "is %d without resume", m.Applied)
	}
	c.u64("complete", &m.Complete)
	c.u64("window", &m.Window)
	n := c.count("volumes", len(m.Volumes), 1, MaxVolumes, 18)
	m.Volumes = list(c, m.Volumes, n)
	for i := range m.Volumes[:n] {
		v := &m.Volumes[i]
		at := c.pos()
		c.uuid("identity", &v.Identity)
		if v.Identity == (UUID{}) {
			c.fail("identity", at, "is zero")
		}
		c.boolean("holds", &v.Holds)
		c.boolean("whole", &v.Whole)
	}
}

func (m *ZeroRanges) fields(c *coder) {
	c.cg(&m.CG)
	n := c.count("ranges", len(m.Ranges), 1, MaxZeroRanges, 24)
	c.zero("reserved")
	m.Ranges = list(c, m.Ranges, n)
	for i := range m.Ranges[:n] {
		z := &m.Ranges[i]
		at := c.pos()
		c.u32("volume", &z.Volume)
		c.zero("reserved")
		c.u64("block", &z.Block)
		c.u64("count", &z.Count)
		c.blockRange(at, z.Volume, z.Block, z.Count)
	}
}

func (m *Manifest) fields(c *coder) {
	c.cg(&m.CG)
	n := c.count("volumes", len(m.Volumes), 1, MaxVolumes, 29)
	m.Volumes = list(c, m.Volumes, n)
	for i := range m.Volumes[:n] {
		v := &m.Volumes[i]
		at := c.pos()
		c.u32("volume", &v.Volume)
		if v.Volume >= MaxVolumes {
			c.fail("volume", at, "handle %d exceeds %d", v.Volume, MaxVolumes-1)
		}
		if i > 0 && v.Volume <= m.Volumes[i-1].Volume {
			c.fail("volume", at, "handle %d after %d, must ascend", v.Volume, m.Volumes[i-1].Volume)
		}
		c.u64("blocks", &v.Blocks)
		c.u64("updates", &v.Updates)
		c.u64("digest", &v.Digest)
		c.boolean("partial", &v.Partial)
	}
}

func (m *Credit) fields(c *coder) { c.u64("applied", &m.Applied) }

func (m *Command) fields(c *coder) {
	c.name("group", &m.Group)
	c.u64("epoch", &m.Epoch)
	c.u64("cg", &m.CG)
}

func (m *Open) fields(c *coder) {
	m.Command.fields(c)
	c.u64("final", &m.Final)
}

func (m *Hold) fields(c *coder) {
	m.Command.fields(c)
	c.u64("timeout", &m.TimeoutMicros)
}

func (m *Thawed) fields(c *coder) {
	m.Command.fields(c)
	c.boolean("ok", &m.OK)
}

func (m *Drained) fields(c *coder) {
	m.Command.fields(c)
	c.u64("blocks", &m.Blocks)
}

func (m *State) fields(c *coder) {
	m.Command.fields(c)
	c.u64("final", &m.Final)
	c.u64("linked", &m.Linked)
	c.u64("complete", &m.Complete)
	c.u64("receiving", &m.Receiving)
	c.boolean("pool full", &m.PoolFull)
	c.text("failed", &m.Failed)
	c.uuid("instance", &m.Instance)
	c.u64("free blocks", &m.FreeBlocks)
	c.u64("awaited", &m.Awaited)
	c.u64("lacking", &m.Lacking)
	c.u64("lacking then", &m.LackingThen)
}

func (m *Complete) fields(c *coder) {
	m.Command.fields(c)
	c.u64("awaited", &m.Awaited)
	c.u64("lacking", &m.Lacking)
}

func (m *Query) fields(c *coder) {
	m.Command.fields(c)
	c.boolean("drained", &m.Drained)
}

func (m *Revert) fields(c *coder) {
	m.Command.fields(c)
	c.boolean("discard", &m.Discard)
	c.u64("through", &m.Through)
	c.u64("final", &m.Final)
}

func (m *Lost) fields(c *coder) {
	m.Command.fields(c)
	c.text("reason", &m.Reason)
}

func (m *Status) fields(c *coder)      { c.bytes("json", &m.JSON, MaxStatus) }
func (m *StatusReply) fields(c *coder) { c.bytes("json", &m.JSON, MaxStatus) }
func (m *Volume) fields(c *coder) {
	c.name("group", &m.Group)
	c.name("name", &m.Name)
	at := c.pos()
	c.u8("action", (*uint8)(&m.Action))
	if m.Action < VolumeMake || m.Action > VolumeRejoin {
		c.fail("action", at, "%d is not an action", m.Action)
	}
	at = c.pos()
	c.u64("size", &m.Size)
	if (m.Action == VolumeMake) != (m.Size > 0) || m.Size%BlockSize != 0 {
		c.fail("size", at, "%d is not a positive multiple of %d, to make a volume, or 0 to do anything else", m.Size, BlockSize)
	}
}

func (m *GroupChange) fields(c *coder) {
	c.name("group", &m.Group)
	at := c.pos()
	c.u8("action", (*uint8)(&m.Action))
	if m.Action < GroupPause || m.Action > GroupRemove {
		c.fail("action", at, "%d is not an action", m.Action)
	}
	at = c.pos()
	c.bytes("json", &m.JSON, MaxText)
	if (m.Action >= GroupSet) != (len(m.JSON) > 0) {
		c.fail("json", at, "has %d bytes with %v: only set has tunables, and at least one, and only the changes of controls one", len(m.JSON), m.Action)
	}
}

func (m *Reload) fields(*coder) {}
func (m *Ping) fields(c *coder) { c.u64("token", &m.Token) }
func (m *Pong) fields(c *coder) { c.u64("token", &m.Token) }

func (m *Error) fields(c *coder) {
	at := c.pos()
	c.u16("code", (*uint16)(&m.Code))
	if m.Code == 0 {
		c.fail("code", at, "is 0")
	}
	c.u64("frame", &m.Frame)
	c.optionalName("group", &m.Group)
	c.u64("cg", &m.CG)
	c.text("text", &m.Text)
}

// cg visits the number of a CG that must exist: from 1.
func (c *coder) cg(v *uint64) {
	at := c.pos()
	c.u64("cg", v)
	if *v == 0 {
		c.fail("cg", at, "is 0; CG numbers start at 1")
	}
}

// blockRange checks a range of blocks whose descriptor lies at offset at.
func (c *coder) blockRange(at int, volume uint32, block, count uint64) {
	if c.err == nil {
		if field, reason := badRange(volume, block, count); reason != "" {
			c.fail(field, at, "%s", reason)
		}
	}
}
