import java.io.DataInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import org.ietf.jgss.GSSContext;
import org.ietf.jgss.GSSCredential;
import org.ietf.jgss.GSSException;
import org.ietf.jgss.GSSManager;
import org.ietf.jgss.MessageProp;
import sun.security.jgss.krb5.internal.TlsChannelBindingImpl;

/**
 * The JDK's own Kerberos and SPNEGO as the acceptor: JdkAcceptor PORT [BINDINGS].
 *
 * <p>Frames as in gss_acceptor.py. Clients come one after the other; each wrapped message
 * is sent back wrapped, and one line tells what became of the client:
 * {@code accepted USER MECHANISM MESSAGES} or {@code refused REASON}.
 */
public final class JdkAcceptor {
    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[0]);
        byte[] bindings = arguments.length < 2
                ? null : arguments[1].getBytes(StandardCharsets.UTF_8);
        InetAddress loopback = InetAddress.getByName("127.0.0.1");
        try (ServerSocket listener = new ServerSocket(port, 5, loopback)) {
            while (true) {
                try (Socket client = listener.accept()) {
                    serve(client, bindings);
                }
            }
        }
    }

    private static void serve(Socket client, byte[] bindings) throws IOException {
        DataInputStream in = new DataInputStream(client.getInputStream());
        OutputStream out = client.getOutputStream();
        try {
            GSSContext context = GSSManager.getInstance().createContext((GSSCredential) null);
            if (bindings != null) {
                // The class that LDAP uses: its bindings hold no addresses, as RFC 5929's.
                context.setChannelBinding(new TlsChannelBindingImpl(bindings));
            }
            byte[] token = receive(in);
            if (token == null) {
                return;             // somebody only looked whether we listen
            }
            while (true) {
                byte[] answer = context.acceptSecContext(token, 0, token.length);
                if (answer != null) {
                    send(out, answer);
                }
                if (context.isEstablished()) {
                    break;
                }
                token = receive(in);
                if (token == null) {
                    throw new EOFException("the client left in the middle");
                }
            }
            int count = echo(context, in, out);
            System.out.println("accepted " + context.getSrcName() + " "
                    + context.getMech() + " " + count);
        } catch (GSSException | IOException error) {
            Throwable cause = error.getCause() == null ? error : error.getCause();
            System.out.println("refused " + cause);
        }
    }

    private static int echo(GSSContext context, DataInputStream in, OutputStream out)
            throws GSSException, IOException {
        int count = 0;
        for (byte[] message = receive(in); message != null; message = receive(in)) {
            MessageProp property = new MessageProp(0, true);
            byte[] plain = context.unwrap(message, 0, message.length, property);
            property = new MessageProp(0, property.getPrivacy());
            send(out, context.wrap(plain, 0, plain.length, property));
            count++;
        }
        return count;
    }

    /** Returns the next frame, or null when the client has gone. */
    private static byte[] receive(DataInputStream in) throws IOException {
        byte[] head = in.readNBytes(4);
        if (head.length < 4) {
            return null;
        }
        return in.readNBytes(ByteBuffer.wrap(head).order(ByteOrder.LITTLE_ENDIAN).getInt());
    }

    private static void send(OutputStream out, byte[] message) throws IOException {
        out.write(ByteBuffer.allocate(4 + message.length).order(ByteOrder.LITTLE_ENDIAN)
                .putInt(message.length).put(message).array());
        out.flush();
    }
}
