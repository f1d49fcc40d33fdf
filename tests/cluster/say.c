/* Says who it is and whether it may write, and answers that to whoever connects to port 8080, until SIGTERM. */
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void end(int number)
{
    (void)number;
    _exit(0);
}

int main(void)
{
    char body[128], answer[256];
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(8080)};
    int reuse = 1, listening = socket(AF_INET, SOCK_STREAM, 0);
    signal(SIGTERM, end);
    int size = snprintf(body, sizeof body, "{\"uid\":%d,\"writes\":%s}\n", (int)getuid(), open("/new", O_CREAT | O_WRONLY, 0600) < 0 ? "false" : "true");
    int whole = snprintf(answer, sizeof answer, "HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s", size, body);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
    if (write(1, body, (size_t)size) != size || bind(listening, (struct sockaddr *)&here, sizeof here) != 0 || listen(listening, 8) != 0)
        return 1;
    for (;;) {
        char asked[1024];
        int one = accept(listening, NULL, NULL);
        if (one >= 0 && read(one, asked, sizeof asked) > 0 && write(one, answer, (size_t)whole) != whole)
            return 1;
        close(one);
    }
}
