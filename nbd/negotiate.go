package nbd

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

const (
	maxName       = 4096     // bytes of an export name, of a query and of a text: the specification's limit on strings
	maxOptionData = 64 << 10 // bytes of an option's data that are looked at
	maxOptionSkip = 1 << 20  // bytes of an option's data that are skipped with ERR_TOO_BIG; beyond, the connection is closed
	maxOptions    = 1024     // options per client
)

// errAborted: the client ended the negotiation as the protocol allows.
var errAborted = errors.New("client aborted the negotiation")

// export is a device as one client sees it.
type export struct {
	dev        Device
	info       Info // with defaults filled in
	release    func()
	structured bool // structured replies
	status     bool // block status with base:allocation
}

// negotiator is the server's side of the handshake. Options are read exactly, never past their
// end: what follows belongs to TLS or to the transmission phase.
type negotiator struct {
	opts *Options
	nc   net.Conn

	noZeroes   bool
	secure     bool
	structured bool
	// context: base:allocation is selected for the export contextName.
	context     bool
	contextName string

	reply []byte // for reuse
}

// negotiate runs the handshake until a client has chosen an export. The returned
// connection is the one to go on with (it may be inside TLS). The caller sets deadlines.
func (n *negotiator) negotiate(ctx context.Context) (*export, error) {
	if err := n.greet(); err != nil {
		return nil, err
	}
	for range maxOptions {
		option, data, err := n.readOption()
		if errors.Is(err, errOptionTooBig) {
			if err := n.answer(option, repErrTooBig, []byte(err.Error())); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		exp, err := n.handle(ctx, option, data)
		if exp != nil || err != nil {
			return exp, err
		}
	}
	return nil, fmt.Errorf("client sent more than %d options", maxOptions)
}

func (n *negotiator) greet() error {
	var hello [18]byte
	binary.BigEndian.PutUint64(hello[0:], magicInit)
	binary.BigEndian.PutUint64(hello[8:], magicOption)
	binary.BigEndian.PutUint16(hello[16:], flagFixedNewstyle|flagNoZeroes)
	if _, err := n.nc.Write(hello[:]); err != nil {
		return fmt.Errorf("send greeting: %w", err)
	}
	var answer [4]byte
	if _, err := io.ReadFull(n.nc, answer[:]); err != nil {
		return fmt.Errorf("read client flags: %w", err)
	}
	flags := binary.BigEndian.Uint32(answer[:])
	if flags&^uint32(flagFixedNewstyle|flagNoZeroes) != 0 {
		return fmt.Errorf("client flags %#x contain unknown ones", flags)
	}
	if flags&uint32(flagFixedNewstyle) == 0 {
		return fmt.Errorf("client flags %#x: fixed newstyle negotiation is required", flags)
	}
	n.noZeroes = flags&uint32(flagNoZeroes) != 0
	return nil
}

var errOptionTooBig = errors.New("option data is too long")

func (n *negotiator) readOption() (option uint32, data []byte, err error) {
	var head [16]byte
	if _, err := io.ReadFull(n.nc, head[:]); err != nil {
		return 0, nil, fmt.Errorf("read option: %w", err)
	}
	if magic := binary.BigEndian.Uint64(head[:]); magic != magicOption {
		return 0, nil, fmt.Errorf("option magic is %#x, want %#x", magic, magicOption)
	}
	option = binary.BigEndian.Uint32(head[8:])
	length := binary.BigEndian.Uint32(head[12:])
	limit := uint32(maxOptionData)
	if option == optExportName {
		limit = maxName // it cannot be answered with an error
	}
	switch {
	case length <= limit:
		data = make([]byte, length)
		if _, err := io.ReadFull(n.nc, data); err != nil {
			return option, nil, fmt.Errorf("read %d bytes of option %d: %w", length, option, err)
		}
		return option, data, nil
	case length > maxOptionSkip || option == optExportName:
		return option, nil, fmt.Errorf("option %d has %d bytes of data", option, length)
	}
	if _, err := io.CopyN(io.Discard, n.nc, int64(length)); err != nil {
		return option, nil, fmt.Errorf("skip %d bytes of option %d: %w", length, option, err)
	}
	return option, nil, errOptionTooBig
}

// handle acts on one option. An export or an error ends the negotiation.
func (n *negotiator) handle(ctx context.Context, option uint32, data []byte) (*export, error) {
	if n.opts.TLSRequired && !n.secure && option != optStartTLS && option != optAbort {
		if option == optExportName {
			return nil, errors.New("client asked for an export without TLS, which is required")
		}
		return nil, n.answer(option, repErrTLSReqd, []byte("start TLS first"))
	}
	switch option {
	case optExportName:
		return n.exportName(ctx, string(data))
	case optAbort:
		_ = n.answer(option, repAck, nil) // the client may be gone already
		return nil, errAborted
	case optList:
		return nil, n.list(data)
	case optStartTLS:
		return nil, n.startTLS(ctx, data)
	case optInfo, optGo:
		return n.infoOrGo(ctx, option, data)
	case optStructuredReply:
		if len(data) != 0 {
			return nil, n.invalid(option, "this option has no data")
		}
		n.structured = true
		return nil, n.answer(option, repAck, nil)
	case optListMetaContext, optSetMetaContext:
		return nil, n.metaContext(ctx, option, data)
	}
	return nil, n.answer(option, repErrUnsup, []byte("this server does not know the option"))
}

// answer sends one option reply.
func (n *negotiator) answer(option, kind uint32, data []byte) error {
	b := n.reply[:0]
	b = binary.BigEndian.AppendUint64(b, magicOptionReply)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	n.reply = append(b, data...)
	if _, err := n.nc.Write(n.reply); err != nil {
		return fmt.Errorf("answer option %d: %w", option, err)
	}
	return nil
}

func (n *negotiator) invalid(option uint32, text string) error {
	return n.answer(option, repErrInvalid, []byte(text))
}

// startTLS changes to TLS, which makes the client's earlier choices void.
func (n *negotiator) startTLS(ctx context.Context, data []byte) error {
	switch {
	case n.secure:
		return n.invalid(optStartTLS, "TLS is in use already")
	case len(data) != 0:
		return n.invalid(optStartTLS, "this option has no data")
	case n.opts.TLS == nil:
		return n.answer(optStartTLS, repErrPolicy, []byte("this server is not configured for TLS"))
	}
	if err := n.answer(optStartTLS, repAck, nil); err != nil {
		return err
	}
	secure := tls.Server(n.nc, n.opts.TLS)
	if err := secure.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	n.nc, n.secure = secure, true
	n.structured, n.context, n.contextName = false, false, ""
	return nil
}

func (n *negotiator) list(data []byte) error {
	if len(data) != 0 {
		return n.invalid(optList, "this option has no data")
	}
	for _, name := range n.opts.Exports.List() {
		if len(name) > maxName {
			continue // no client could ask for it
		}
		entry := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
		if err := n.answer(optList, repServer, append(entry, name...)); err != nil {
			return err
		}
	}
	return n.answer(optList, repAck, nil)
}
