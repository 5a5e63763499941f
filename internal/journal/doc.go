// Package journal reads the journal, the tree of folders in which a router keeps
// messages while queues are elsewhere, without changing anything, and knows the
// form of what is in it.
//
// A queue that ever had a message has a folder. Its path is the recipient id in
// base64url, cut after 2, 4, 6 and 8 characters:
//
//	AA/EC/Aw/QF/BgcICQoLDA0ODxAREhMUFRYX/
//	  queue_state.AAECAwQFBgcICQoLDA0ODxAREhMUFRYX.log
//	  messages.67AVlEL8jEJXoC4h.log
//	  messages.JEzSTxKi1TSCIGMY.log
//
// Message files hold one message a line: id, seconds, flags and body, as in the
// message log. Messages are appended to one file and taken from it, or from
// another one, which is then full and goes when it is empty. The state file has a
// line for each change; the last one counts:
//
//	write=67AVlEL8jEJXoC4h,3,3,195,195 read=67AVlEL8jEJXoC4h,1,3,65,195 canWrite=T size=2
//
// that is, for either file, its name, the number of messages before the position,
// the number in the file, and both in bytes; whether the sender may send; and the
// number of messages in the queue.
//
// # What is left after a crash
//
// A router first appends a message, then the state line, then it confirms the
// message to the sender. What a message file has beyond the state was never
// confirmed, and is ignored, as a router cuts it off. An incomplete last line of a
// state file is ignored likewise: the line before it counts. A state file with the
// suffix .bak is what a router was copying when it was stopped, and is used
// instead of the other one. Of two message files one can be missing; the other one
// counts. All of this is reported, and where messages are lost, that is said: the
// problem is Lost. A router that opens such a journal loses some of them in
// silence, and of others makes no use at all.
package journal
