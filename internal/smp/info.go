package smp

import "time"

// QueueInfo is the state of a queue, which [INFO] carries as JSON. Its encoding
// by package encoding/json is exactly that of smp-server: the same members in
// the same order, ids in base64 of the standard alphabet.
type QueueInfo struct {
	Secured      bool              `json:"qiSnd"` // whether the queue has a sender's key
	HasNotifier  bool              `json:"qiNtf"`
	Subscription *SubscriptionInfo `json:"qiSub,omitempty"` // nil: none on this connection
	Size         int64             `json:"qiSize"`          // messages in the queue, a quota marker included
	Message      *MessageInfo      `json:"qiMsg,omitempty"` // the first message, or nil
}

// SubscriptionInfo is the state of a subscription.
type SubscriptionInfo struct {
	Thread    SubscriptionThread `json:"qSubThread"`
	Delivered []byte             `json:"qDelivered,omitempty"` // id of the message that is not yet acknowledged
}

// A SubscriptionThread says who delivers the messages of a queue.
type SubscriptionThread string

// The states of subscriptions.
const (
	NoThread         SubscriptionThread = "noSub"
	ThreadPending    SubscriptionThread = "subPending"
	ThreadRunning    SubscriptionThread = "subThread"
	ThreadProhibited SubscriptionThread = "prohibitSub" // GET was used
)

// MessageInfo tells what is known of a message without its content.
type MessageInfo struct {
	ID   []byte      `json:"msgId"`
	Time time.Time   `json:"msgTs"` // when the router took it; UTC, in years of four digits
	Type MessageType `json:"msgType"`
}

// A MessageType tells messages from quota markers.
type MessageType string

// The types of messages.
const (
	MessageNormal MessageType = "message"
	MessageQuota  MessageType = "quota"
)
