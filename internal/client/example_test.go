package client_test

import (
	"context"
	"fmt"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
)

// check ends an example that fails.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

// A queue is created, and a message sent through it.
func Example() {
	router, err := routertest.New(routertest.Options{})
	check(err)
	defer router.Close()

	// In earnest the address is one of smp.ParseRouterAddress, and ctx has a time
	// limit for each step.
	ctx := context.Background()
	recipient, err := client.Dial(ctx, router.Address(), client.Options{})
	check(err)
	defer recipient.Close()
	sender, err := client.Dial(ctx, router.Address(), client.Options{})
	check(err)
	defer sender.Close()

	// The recipient creates a queue, and is subscribed to it.
	key, err := auth.GenerateKey(smp.Ed25519)
	check(err)
	dh, err := auth.GenerateKey(smp.X25519)
	check(err)
	ids, err := client.As[*smp.IDS](recipient.Do(ctx, client.Request{Key: key, Command: &smp.NEW{
		RecipientKey: key.Public(), DHKey: dh.Public(), Subscribe: true, Mode: smp.ModeMessaging,
	}}))
	check(err)
	secret, err := dh.Agree(ids.DHKey)
	check(err)

	// The sender, who has been told its id, secures it and sends.
	senderKey, err := auth.GenerateKey(smp.Ed25519)
	check(err)
	for _, command := range []smp.Command{
		&smp.SKEY{SenderKey: senderKey.Public()},
		&smp.SEND{Body: []byte("Hello!")},
	} {
		_, err = client.As[*smp.OK](sender.Do(ctx, client.Request{Entity: ids.SenderID.ID(), Command: command, Key: senderKey}))
		check(err)
	}

	// The message arrives as an event. It is delivered again until it is
	// acknowledged.
	event := <-recipient.Events()
	received, err := client.As[*smp.MSG](event.Response, event.Err)
	check(err)
	message, err := auth.OpenMessage(secret, auth.NonceOf(received.MsgID.Bytes()), received.Body)
	check(err)
	fmt.Println(string(message.Body))
	_, err = client.As[*smp.OK](recipient.Do(ctx, client.Request{Entity: event.Entity, Command: &smp.ACK{MsgID: received.MsgID}, Key: key}))
	check(err)

	// Output: Hello!
}

// A message is sent through another router, so that the router of the queue does
// not learn who sends it.
func ExampleRelay() {
	router, err := routertest.New(routertest.Options{})
	check(err)
	defer router.Close()
	proxy, err := routertest.New(routertest.Options{})
	check(err)
	defer proxy.Close()
	ctx := context.Background()
	recipient, err := client.Dial(ctx, router.Address(), client.Options{})
	check(err)
	defer recipient.Close()
	key, err := auth.GenerateKey(smp.Ed25519)
	check(err)
	dh, err := auth.GenerateKey(smp.X25519)
	check(err)
	ids, err := client.As[*smp.IDS](recipient.Do(ctx, client.Request{Key: key, Command: &smp.NEW{
		RecipientKey: key.Public(), DHKey: dh.Public(), Subscribe: true, Mode: smp.ModeMessaging,
	}}))
	check(err)

	sender, err := client.Dial(ctx, proxy.Address(), client.Options{})
	check(err)
	defer sender.Close()
	relay, err := sender.Relay(ctx, router.Address(), smp.Password{})
	check(err)
	_, err = client.As[*smp.OK](relay.Do(ctx, client.Request{Entity: ids.SenderID.ID(), Command: &smp.SEND{Body: []byte("Hello!")}}))
	check(err)

	event := <-recipient.Events()
	received, err := client.As[*smp.MSG](event.Response, event.Err)
	check(err)
	secret, err := dh.Agree(ids.DHKey)
	check(err)
	message, err := auth.OpenMessage(secret, auth.NonceOf(received.MsgID.Bytes()), received.Body)
	check(err)
	fmt.Println(string(message.Body))

	// Output: Hello!
}

// A service subscribes to all of its queues at once.
func ExampleClient_service() {
	router, err := routertest.New(routertest.Options{})
	check(err)
	defer router.Close()
	ctx := context.Background()
	credentials, err := routertest.MakeServiceCredentials(queue.RoleMessaging)
	check(err)

	// The queues that it creates are its own.
	var own smp.Subscribed
	service, err := client.Dial(ctx, router.Address(), client.Options{Service: &credentials})
	check(err)
	for range 3 {
		key, err := auth.GenerateKey(smp.Ed25519)
		check(err)
		dh, err := auth.GenerateKey(smp.X25519)
		check(err)
		ids, err := client.As[*smp.IDS](service.Do(ctx, client.Request{Key: key, Command: &smp.NEW{
			RecipientKey: key.Public(), DHKey: dh.Public(), Subscribe: true, Mode: smp.ModeMessaging,
		}}))
		check(err)
		own.Count++
		own.Hash = own.Hash.Toggle(ids.RecipientID.ID())
	}
	service.Close()

	// In its next session it says which queues it knows of; the router says the
	// same, if they agree.
	service, err = client.Dial(ctx, router.Address(), client.Options{Service: &credentials})
	check(err)
	defer service.Close()
	subscribed, err := client.As[*smp.SOKS](service.Do(ctx, client.Request{
		Entity: service.Session().Service.ID, Command: &smp.SUBS{Subscribed: own},
	}))
	check(err)
	fmt.Println(subscribed.Count, "queues, as expected:", subscribed.Subscribed == own)
	event := <-service.Events()
	_, err = client.As[*smp.ALLS](event.Response, event.Err)
	check(err)
	fmt.Println("All messages that waited have come.")

	// Output:
	// 3 queues, as expected: true
	// All messages that waited have come.
}
