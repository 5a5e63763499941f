package smp

// Commands of sending through a proxy (SMP protocol, proxying). The
// proxy does not learn what is sent nor to which queue, the destination router
// not who sends it. What is encrypted in them is package auth's.

// PRXY asks a proxy for a session with another router. The proxy answers [PKEY].
type PRXY struct {
	Hosts       []Host // 1 to 255, more are not sent
	Port        uint16 // 0: the default
	Fingerprint Fingerprint
	Password    Password // of the proxy; zero: none
}

// PFWD asks a proxy to forward an encrypted transmission. The proxy answers
// [PRES].
type PFWD struct {
	Version   Version   // of what is encrypted
	Key       PublicKey // X25519, of the client, for this transmission only
	Encrypted []byte    // 16,242 bytes
}

// RFWD hands a transmission from a proxy to the destination router. It answers
// [RRES].
type RFWD struct {
	Encrypted []byte // what PFWD has, with its correlation id, encrypted once more
}

// Append implements [Command].
func (c *PRXY) Append(b []byte, _ Version) []byte {
	hosts := c.Hosts[:min(len(c.Hosts), maxList)]
	b = append(append(b, "PRXY "...), byte(len(hosts))) //nolint:gosec // maxList
	for _, h := range hosts {
		b = h.append(b)
	}
	b = appendShortText(b, portText(c.Port))
	b = c.Fingerprint.append(b)
	return appendOptional(b, !c.Password.IsZero(), c.Password.append)
}

func (d *decoder) proxy() *PRXY {
	c := &PRXY{}
	n := int(d.Byte())
	if d.err == nil && n == 0 {
		d.Fail("at least one host is needed")
	}
	for range n {
		h := d.host()
		if d.err != nil {
			return nil
		}
		c.Hosts = append(c.Hosts, h)
	}
	if port := d.Short(); len(port) > 0 {
		var err error
		if c.Port, err = parsePort(string(port)); err != nil {
			d.Fail(err.Error())
		}
	}
	c.Fingerprint = Fingerprint{string(d.Short())}
	if d.Present() {
		c.Password = d.password()
	}
	return c
}

// Append implements [Command].
func (c *PFWD) Append(b []byte, _ Version) []byte {
	b = AppendUint16(append(b, "PFWD "...), uint16(c.Version))
	return append(appendKey(b, c.Key), c.Encrypted...)
}

func (d *decoder) forward() *PFWD {
	return &PFWD{Version: Version(d.Uint16()), Key: d.dhKey(), Encrypted: d.Rest()}
}

// Append implements [Command].
func (c *RFWD) Append(b []byte, _ Version) []byte {
	return append(append(b, "RFWD "...), c.Encrypted...)
}

func (*PRXY) credentials() credentials { return anonymous }
func (*PFWD) credentials() credentials { return unauthorized }
func (*RFWD) credentials() credentials { return anonymous }
