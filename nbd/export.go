package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// open looks an export up. Its release is never nil.
func (n *negotiator) open(ctx context.Context, name string) (*export, error) {
	dev, release, err := n.opts.Exports.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	if release == nil {
		release = func() {}
	}
	info, err := completeInfo(dev.Info(), n.opts.MaxInFlight)
	if err != nil {
		release()
		return nil, fmt.Errorf("export %q: %w", name, err)
	}
	return &export{
		dev: dev, info: info, release: release, structured: n.structured,
		status: n.structured && n.context && n.contextName == name && info.BlockStatus,
	}, nil
}

// completeInfo fills in defaults and checks what a device said of itself.
func completeInfo(i Info, maxInFlight int64) (Info, error) {
	setDefault(&i.MinBlock, 1)
	setDefault(&i.PreferredBlock, max(4096, i.MinBlock))
	setDefault(&i.MaxPayload, 32<<20)
	if i.MinBlock&(i.MinBlock-1) != 0 || i.MinBlock > minInFlight {
		return i, fmt.Errorf("minimum block size %d is not a power of two up to %d", i.MinBlock, minInFlight)
	}
	i.PreferredBlock = max(i.PreferredBlock, i.MinBlock)
	i.MaxPayload = uint32(min(int64(i.MaxPayload), maxInFlight))
	i.MaxPayload -= i.MaxPayload % i.MinBlock
	if i.MaxPayload < i.MinBlock {
		return i, fmt.Errorf("maximum payload is below the minimum block size %d", i.MinBlock)
	}
	i.Size -= i.Size % uint64(i.MinBlock)
	if i.Size > 1<<63-1 {
		return i, fmt.Errorf("size %d is above what the protocol can address", i.Size)
	}
	return i, nil
}

// transmissionFlags are what the client may do with the export.
func (e *export) transmissionFlags() uint16 {
	i, flags := &e.info, flagHasFlags
	set := func(on bool, flag uint16) {
		if on {
			flags |= flag
		}
	}
	set(i.ReadOnly, flagReadOnly)
	set(i.Flush, flagSendFlush)
	set(i.FUA, flagSendFUA)
	set(i.Rotational, flagRotational)
	set(i.Trim && !i.ReadOnly, flagSendTrim)
	set(i.WriteZeroes && !i.ReadOnly, flagSendWriteZeroes)
	set(i.WriteZeroes && i.FastZero && !i.ReadOnly, flagSendFastZero)
	set(e.structured, flagSendDF)
	set(i.MultiConn, flagCanMultiConn)
	return flags
}

// exportName is the old way to choose an export: it can only be granted or hung up on.
func (n *negotiator) exportName(ctx context.Context, name string) (*export, error) {
	exp, err := n.open(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("client asked for export %q: %w", name, err)
	}
	b := binary.BigEndian.AppendUint64(nil, exp.info.Size)
	b = binary.BigEndian.AppendUint16(b, exp.transmissionFlags())
	if !n.noZeroes {
		b = append(b, make([]byte, exportNamePadding)...)
	}
	if _, err := n.nc.Write(b); err != nil {
		exp.release()
		return nil, fmt.Errorf("answer export name: %w", err)
	}
	return exp, nil
}

// infoOrGo describes an export, and for NBD_OPT_GO chooses it.
func (n *negotiator) infoOrGo(ctx context.Context, option uint32, data []byte) (*export, error) {
	name, wanted, err := parseInfo(data)
	if err != nil {
		return nil, n.invalid(option, err.Error())
	}
	exp, err := n.open(ctx, name)
	if err != nil {
		return nil, n.refuseExport(ctx, option, err)
	}
	if err := n.sendInfo(option, name, wanted, exp); err != nil {
		exp.release()
		return nil, err
	}
	if option == optInfo {
		exp.release()
		return nil, nil
	}
	return exp, nil
}

// refuseExport tells the client why it does not get the export.
func (n *negotiator) refuseExport(ctx context.Context, option uint32, cause error) error {
	kind := repErrUnknown
	if ctx.Err() != nil {
		kind = repErrShutdown
	}
	return n.answer(option, kind, []byte(truncateText(cause.Error(), maxName)))
}

// truncateText cuts a text for a client at a border between characters.
func truncateText(s string, limit int) string {
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}

var errMalformedOption = errors.New("lengths inside the option do not fit its length")

// parseInfo decodes the data of NBD_OPT_INFO and NBD_OPT_GO.
func parseInfo(data []byte) (name string, wanted []uint16, err error) {
	name, data, err = parseString(data)
	if err != nil {
		return "", nil, err
	}
	if len(data) < 2 {
		return "", nil, errMalformedOption
	}
	count := int(binary.BigEndian.Uint16(data))
	data = data[2:]
	if len(data) != 2*count {
		return "", nil, errMalformedOption
	}
	for ; len(data) > 0; data = data[2:] {
		wanted = append(wanted, binary.BigEndian.Uint16(data))
	}
	return name, wanted, nil
}

// parseString takes a string with a 32-bit length from the front of data.
func parseString(data []byte) (s string, rest []byte, err error) {
	if len(data) < 4 {
		return "", nil, errMalformedOption
	}
	length := binary.BigEndian.Uint32(data)
	data = data[4:]
	if uint64(length) > uint64(len(data)) {
		return "", nil, errMalformedOption
	}
	if length > maxName {
		return "", nil, fmt.Errorf("a string has %d bytes, above %d", length, maxName)
	}
	return string(data[:length]), data[length:], nil
}

// sendInfo sends what must be told (size and flags, block sizes) and what was asked for besides,
// then the acknowledgement.
func (n *negotiator) sendInfo(option uint32, name string, wanted []uint16, exp *export) error {
	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, exp.info.Size)
	b = binary.BigEndian.AppendUint16(b, exp.transmissionFlags())
	if err := n.answer(option, repInfo, b); err != nil {
		return err
	}
	// Also to clients that did not ask: they could not guess it.
	b = binary.BigEndian.AppendUint16(b[:0], infoBlockSize)
	b = binary.BigEndian.AppendUint32(b, exp.info.MinBlock)
	b = binary.BigEndian.AppendUint32(b, exp.info.PreferredBlock)
	b = binary.BigEndian.AppendUint32(b, exp.info.MaxPayload)
	if err := n.answer(option, repInfo, b); err != nil {
		return err
	}
	texts := []struct {
		kind uint16
		text string
	}{{infoName, name}, {infoDescription, truncateText(exp.info.Description, maxName)}}
	for _, t := range texts {
		if !asked(wanted, t.kind) || (t.kind == infoDescription && t.text == "") {
			continue
		}
		b = append(binary.BigEndian.AppendUint16(b[:0], t.kind), t.text...)
		if err := n.answer(option, repInfo, b); err != nil {
			return err
		}
	}
	return n.answer(option, repAck, nil)
}

func asked(wanted []uint16, kind uint16) bool {
	for _, w := range wanted {
		if w == kind {
			return true
		}
	}
	return false
}

// metaContext lists or selects metadata contexts. A selection replaces the one before.
func (n *negotiator) metaContext(ctx context.Context, option uint32, data []byte) error {
	if option == optSetMetaContext {
		n.context, n.contextName = false, ""
	}
	if !n.structured {
		return n.invalid(option, "metadata contexts need structured replies")
	}
	name, queries, err := parseQueries(data)
	if err != nil {
		return n.invalid(option, err.Error())
	}
	exp, err := n.open(ctx, name)
	if err != nil {
		return n.refuseExport(ctx, option, err)
	}
	offered := exp.info.BlockStatus
	exp.release()
	if offered && matchesAllocation(option, queries) {
		id := contextAllocationID
		if option == optSetMetaContext {
			n.context, n.contextName = true, name
		} else {
			id = 0 // the specification reserves it in lists
		}
		b := append(binary.BigEndian.AppendUint32(nil, id), contextAllocation...)
		if err := n.answer(option, repMetaContext, b); err != nil {
			return err
		}
	}
	return n.answer(option, repAck, nil)
}

// matchesAllocation says whether base:allocation is among what the queries ask for. In a
// list, no query at all means everything, and "base:" everything in that namespace.
func matchesAllocation(option uint32, queries []string) bool {
	listing := option == optListMetaContext
	if listing && len(queries) == 0 {
		return true
	}
	for _, q := range queries {
		if q == contextAllocation || (listing && q == "base:") {
			return true
		}
	}
	return false
}

// parseQueries decodes the data of the options for metadata contexts.
func parseQueries(data []byte) (name string, queries []string, err error) {
	name, data, err = parseString(data)
	if err != nil {
		return "", nil, err
	}
	if len(data) < 4 {
		return "", nil, errMalformedOption
	}
	count := binary.BigEndian.Uint32(data)
	data = data[4:]
	if uint64(count)*4 > uint64(len(data)) {
		return "", nil, errMalformedOption
	}
	for range count {
		var q string
		if q, data, err = parseString(data); err != nil {
			return "", nil, err
		}
		queries = append(queries, q)
	}
	if len(data) != 0 {
		return "", nil, errMalformedOption
	}
	return name, queries, nil
}
