package nettest

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// A frame is what a packet socket with PACKET_VNET_HDR gives and takes: a struct virtio_net_hdr of 10 bytes, which
// says what of checksums and segmentation is still to be done (linux/virtio_net.h), then the Ethernet frame, which
// may be larger than the MTU.
const (
	virtioHeader = 10
	largestFrame = virtioHeader + 14 + 1<<16
	socketBuffer = 16 << 20
)

// port is the switch's end of a host's veth.
type port struct{ f *os.File }

func (n *Net) openPort(name string) (p *port, err error) {
	err = n.space.do(func() error {
		device, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00 // in network order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
		for _, o := range []struct{ level, name, value int }{
			{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1}, {unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1},
			{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer}, {unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer},
		} {
			err = errors.Join(err, unix.SetsockoptInt(fd, o.level, o.name, o.value))
		}
		if err = errors.Join(err, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: device.Index})); err != nil {
			return errors.Join(fmt.Errorf("packet socket on %s: %w", name, err), unix.Close(fd))
		}
		p = &port{os.NewFile(uintptr(fd), name)}
		return nil
	})
	return p, err
}

func (p *port) read(frame []byte) (int, error) { return p.f.Read(frame) }

// send puts a frame out. One that the kernel does not take is lost, as in any network.
func (p *port) send(frame []byte) { _, _ = p.f.Write(frame) }

func (p *port) close() { _ = p.f.Close() } // ends read; there is nothing to lose

// mac is the hardware address of a host.
func mac(number int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, byte(number)} }

// destination is the number of the host that a frame is for; 0: everybody.
func destination(frame []byte) int {
	if len(frame) < virtioHeader+14 || frame[virtioHeader]&1 != 0 {
		return 0
	}
	return int(frame[virtioHeader+5])
}

// payload is what of a frame TCP carries; nil if it is something else or carries nothing.
func payload(frame []byte) []byte {
	ip := frame[min(len(frame), virtioHeader+14):]
	if len(ip) < 20 || frame[virtioHeader+12] != 8 || frame[virtioHeader+13] != 0 || ip[9] != unix.IPPROTO_TCP {
		return nil
	}
	length := int(ip[2])<<8 | int(ip[3])
	if length > len(ip) || length == 0 { // a large segment may not say
		length = len(ip)
	}
	tcp := ip[min(length, int(ip[0]&15)*4):length]
	if len(tcp) < 20 {
		return nil
	}
	data := tcp[min(len(tcp), int(tcp[12]>>4)*4):]
	if len(data) == 0 {
		return nil
	}
	return data
}
