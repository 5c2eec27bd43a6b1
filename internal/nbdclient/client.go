// Package nbdclient is a small NBD client, for the demonstration, benchmarks and tests: one request at a time per
// connection, or a load of many. It speaks fixed newstyle with NBD_OPT_EXPORT_NAME and simple replies; the
// specification is https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
package nbdclient

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	serverMagic  = 0x4e42444d41474943 // "NBDMAGIC"
	optionMagic  = 0x49484156454F5054 // "IHAVEOPT"
	requestMagic = 0x25609513
	replyMagic   = 0x67446698

	optExportName  = 1
	fixedNewstyle  = 1 << 0
	noZeroes       = 1 << 1
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisconnect  = 2
	cmdFlush       = 3
	maxRequest     = 1 << 20
	requestTimeout = time.Minute
)

var be = binary.BigEndian

// Client is one connection to an export. One goroutine may use it.
type Client struct {
	conn   net.Conn
	r      *bufio.Reader
	size   uint64
	cookie uint64
	head   [28]byte
}

// Dial connects to an export at "unix:/path" or "host:port".
func Dial(ctx context.Context, addr, export string) (*Client, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("NBD export %s: %w", export, err)
	}
	c := &Client{conn: conn, r: bufio.NewReaderSize(conn, 64<<10)}
	if err := c.negotiate(export); err != nil {
		return nil, errors.Join(fmt.Errorf("NBD export %s at %s: %w", export, addr, err), conn.Close())
	}
	return c, nil
}

func (c *Client) negotiate(export string) error {
	if err := c.conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	var hello [18]byte
	if _, err := io.ReadFull(c.r, hello[:]); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	if be.Uint64(hello[:]) != serverMagic || be.Uint64(hello[8:]) != optionMagic || be.Uint16(hello[16:])&fixedNewstyle == 0 {
		return errors.New("the server does not speak fixed newstyle NBD")
	}
	flags := uint32(be.Uint16(hello[16:]) & (fixedNewstyle | noZeroes))
	b := be.AppendUint32(nil, flags)
	b = be.AppendUint64(b, optionMagic)
	b = be.AppendUint32(b, optExportName)
	b = be.AppendUint32(b, uint32(len(export)))
	if _, err := c.conn.Write(append(b, export...)); err != nil {
		return err
	}
	answer := make([]byte, 10)
	if flags&noZeroes == 0 {
		answer = make([]byte, 134)
	}
	if _, err := io.ReadFull(c.r, answer); err != nil {
		return fmt.Errorf("the export was refused: %w", err)
	}
	c.size = be.Uint64(answer)
	return nil
}

// Size of the export in bytes.
func (c *Client) Size() uint64 { return c.size }

// ReadAt fills p from off.
func (c *Client) ReadAt(p []byte, off int64) (int, error) { return c.split(cmdRead, p, off) }

// WriteAt stores p at off; on return the server has answered.
func (c *Client) WriteAt(p []byte, off int64) (int, error) { return c.split(cmdWrite, p, off) }

// Flush makes durable what was answered before.
func (c *Client) Flush() error { return c.request(cmdFlush, nil, 0) }

func (c *Client) split(cmd uint16, p []byte, off int64) (done int, err error) {
	for done < len(p) {
		n := min(len(p)-done, maxRequest)
		if err := c.request(cmd, p[done:done+n], off+int64(done)); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

func (c *Client) request(cmd uint16, p []byte, off int64) error {
	if err := c.conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	c.cookie++
	h := be.AppendUint32(c.head[:0], requestMagic)
	h = be.AppendUint16(h, 0)
	h = be.AppendUint16(h, cmd)
	h = be.AppendUint64(h, c.cookie)
	h = be.AppendUint64(h, uint64(off))
	h = be.AppendUint32(h, uint32(len(p)))
	if cmd == cmdWrite {
		buffers := net.Buffers{h, p}
		if _, err := buffers.WriteTo(c.conn); err != nil {
			return err
		}
	} else if _, err := c.conn.Write(h); err != nil {
		return err
	}
	if cmd == cmdDisconnect {
		return nil
	}
	return c.reply(cmd, p)
}

func (c *Client) reply(cmd uint16, p []byte) error {
	var head [16]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	if be.Uint32(head[:]) != replyMagic || be.Uint64(head[8:]) != c.cookie {
		return fmt.Errorf("reply %x does not belong to request %d", head, c.cookie)
	}
	if code := be.Uint32(head[4:]); code != 0 {
		return fmt.Errorf("the server answers: %w", unix.Errno(code))
	}
	if cmd == cmdRead {
		if _, err := io.ReadFull(c.r, p); err != nil {
			return fmt.Errorf("data of a reply: %w", err)
		}
	}
	return nil
}

// Close disconnects.
func (c *Client) Close() error {
	return errors.Join(c.request(cmdDisconnect, nil, 0), c.conn.Close())
}
