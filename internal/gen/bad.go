package gen

// emitBad writes a line that changes nothing of what the log means: no record
// at all, or one that cannot be applied.
func (g *generator) emitBad() {
	s := &g.badDraws
	g.start()
	switch s.below(12) {
	case 0: // an empty line
		g.malformed()
	case 1: // anything
		g.line = s.appendBytes(g.line, 1+s.below(200))
		for i, c := range g.line {
			if c == '\n' {
				g.line[i] = ' '
			}
		}
		g.malformed()
	case 2:
		g.appendCut()
		g.malformed()
	case 3:
		g.appendAlien("DELETED")
		g.malformed()
	case 4: // a file that was edited on Windows
		g.appendAlien("SUSPEND")
		g.appendText("\r")
		g.malformed()
	case 5: // an id of impossible length
		g.appendAlien("UNBLOCK")
		g.appendText("A")
		g.malformed()
	case 6: // a key of the wrong size
		g.appendAlien("SECURE")
		g.appendText(" ")
		g.appendRandom(s, secretSize)
		g.malformed()
	case 7: // no 64-bit number
		g.appendAlien("TIME")
		g.appendText(" 99999999999999999999")
		g.malformed()
	case 8: // a queue a second time
		const recent = 10_000
		if g.created == 0 {
			g.refuseAlien()
			return
		}
		g.appendCreate(g.created - 1 - int64(s.below(int(min(g.created, recent)))))
		g.stats.Refused++
		g.record("CREATE")
	case 9: // a queue with the sender id of the newest one
		if g.slot >= g.created { // it may be deleted, and its sender id free
			g.refuseAlien()
			return
		}
		g.appendRival()
		g.stats.Refused++
		g.record("CREATE")
	case 10:
		g.refuseAlien()
	default: // a queue that is gone
		if g.lastDeleted < 0 {
			g.refuseAlien()
			return
		}
		g.appendText("TIME ")
		g.appendRecipient(g.lastDeleted)
		g.appendText(" ")
		g.appendDate(s, g.day(g.slot))
		g.stats.Late++
		g.record("TIME")
	}
}

// malformed ends a line that is no record, and writes it.
func (g *generator) malformed() {
	g.stats.Malformed++
	g.end()
}

// appendAlien appends a tag and the id of a queue that never was.
func (g *generator) appendAlien(tag string) {
	g.appendText(tag)
	g.appendText(" ")
	g.appendRandom(&g.badDraws, idSize)
}

// refuseAlien writes a record about a queue that never was.
func (g *generator) refuseAlien() {
	tags := [...]string{"DELETE", "SUSPEND", "UNBLOCK", "LDELETE", "NDELETE"}
	tag := tags[g.badDraws.below(len(tags))]
	g.appendAlien(tag)
	g.stats.Refused++
	g.record(tag)
}

// appendRival appends the CREATE record of a queue that never was, with the
// sender id of the queue of this slot.
func (g *generator) appendRival() {
	g.ids.seek(g.o.Seed, domainQueue, g.slot, 0)
	_ = g.drawID(&g.ids) // of the recipient
	sender := g.drawID(&g.ids)
	g.appendStart()
	g.appendBase64(sender[:])
	g.appendText(" sk= queue_mode=M")
}

// appendCut appends the CREATE record of a queue that never was, cut off where it
// is no record yet.
func (g *generator) appendCut() {
	g.appendStart()
	g.appendRandom(&g.badDraws, idSize)
	g.line = g.line[:1+g.badDraws.below(len(g.line))]
}

// appendStart appends the CREATE record of a queue that never was up to the
// sender id.
func (g *generator) appendStart() {
	s := &g.badDraws
	g.appendText("CREATE rid=")
	g.appendRandom(s, idSize)
	g.appendText(" rk=")
	g.appendKey(s)
	g.appendText(" rdh=")
	g.appendRandom(s, secretSize)
	g.appendText(" sid=")
}
