// The frameworks people use, as their users use them: routing, forms, sessions, uploads, streams,
// static files, error pages. Each comes from the distribution's package; a missing one skips its
// tests.

#include <algorithm>
#include <cstring>
#include <map>

#include "tests/support/e2e.h"

namespace gcorn::e2e {
namespace {

bool can_import(const std::string& module) {
    return run({python(), "-c", "import " + module}).code == 0;
}
#define NEED_MODULE(module) \
    if (!can_import(module)) GTEST_SKIP() << "python3-" << (module) << " is not installed"

/// A browser's cookies: sends back what Set-Cookie said.
class Browser {
public:
    explicit Browser(const Server& server) : server_(server) {}

    Response request(std::string_view method, std::string_view target, Fields fields = {},
                     std::string_view body = {}) {
        std::string cookies;
        for (const auto& [name, value] : cookies_) {
            cookies += (cookies.empty() ? "" : "; ") + name + "=" + value;
        }
        if (!cookies.empty()) fields.emplace_back("Cookie", cookies);
        const Response response = server_.request(method, target, fields, body);
        for (const auto& [name, value] : response.fields) {
            if (name != "Set-Cookie") continue;
            const size_t equals = value.find('=');
            cookies_[value.substr(0, equals)] =
                value.substr(equals + 1, value.find(';') - equals - 1);
        }
        return response;
    }
    Response get(std::string_view target) { return request("GET", target); }
    Response post_form(std::string_view target, std::string_view form) {
        return request("POST", target, {{"Content-Type", "application/x-www-form-urlencoded"}},
                       form);
    }
    [[nodiscard]] std::string cookie(const std::string& name) const {
        const auto found = cookies_.find(name);
        return found == cookies_.end() ? "" : found->second;
    }

private:
    const Server& server_;
    std::map<std::string, std::string> cookies_;
};

struct Form {
    std::string type;
    std::string body;
};

/// A multipart form with one text field and one file.
Form multipart(const std::string& field, const std::string& value, const std::string& file_field,
               const std::string& file_name, const std::string& data) {
    const std::string boundary = "----boundary4711";
    Form form;
    form.type = "multipart/form-data; boundary=" + boundary;
    form.body = "--" + boundary + "\r\nContent-Disposition: form-data; name=\"" + field +
                "\"\r\n\r\n" + value + "\r\n--" + boundary +
                "\r\nContent-Disposition: form-data; name=\"" + file_field + "\"; filename=\"" +
                file_name + "\"\r\nContent-Type: application/octet-stream\r\n\r\n" + data +
                "\r\n--" + boundary + "--\r\n";
    return form;
}

/// The digest that the system's Python computes of the pattern's first bytes.
std::string sha256_of_pattern(size_t count) {
    const std::string script =
        "import hashlib, probe; p = probe.PATTERN; n = " + std::to_string(count) +
        "; print(hashlib.sha256((p * (n // len(p) + 1))[:n]).hexdigest(), end='')";
    return run({python(), "-c", script}).out;
}

/// The JSON text without the spaces that some versions put after colons and commas.
std::string compact(const std::string& json) {
    std::string text;
    for (const char c : json) {
        if (c == '\n' || (c == ' ' && !text.empty() && std::strchr(":,{[", text.back()) != nullptr))
            continue;
        text += c;
    }
    return text;
}

class Flask : public PerEngine {
protected:
    void SetUp() override {
        NEED_MODULE("flask");
        ServerOptions options = with();
        options.app = "flask_site:app";
        server_.emplace(options);
    }
    std::optional<Server> server_;
};
FOR_EVERY_ENGINE(Flask);

TEST_P(Flask, RoutesAndRendersJson) {
    EXPECT_EQ(server_->get("/").body, "<h1>index</h1>");
    const Response greeting = server_->get("/greet/J%C3%BCrgen?q=a+b");
    EXPECT_TRUE(greeting.ok()) << greeting;
    EXPECT_EQ(greeting.field("Content-Type"), "application/json");
    EXPECT_TRUE(contains(greeting.body, "J\\u00fcrgen")) << greeting;
    EXPECT_TRUE(contains(greeting.body, "\"a b\"")) << greeting;
}

TEST_P(Flask, TakesFormsAndJson) {
    Browser browser(*server_);
    EXPECT_TRUE(contains(browser.post_form("/form", "b=2&a=1+1").body, "\"1 1\""));
    const Response json = browser.request("POST", "/json", {{"Content-Type", "application/json"}},
                                          R"({"x": [1, 2]})");
    EXPECT_TRUE(contains(json.body, "\"x\"")) << json;
    EXPECT_EQ(browser.request("POST", "/json", {{"Content-Type", "application/json"}}, "{").status,
              400);
}

TEST_P(Flask, TakesUploads) {
    const size_t size = 700'000;  // Werkzeug keeps half a megabyte in memory
    const Form form = multipart("title", "x", "file", "data.bin", Pattern().bytes(0, size));
    const Response response =
        server_->request("POST", "/upload", {{"Content-Type", form.type}}, form.body);
    EXPECT_TRUE(contains(response.body, sha256_of_pattern(size))) << response;
    EXPECT_TRUE(contains(response.body, "data.bin")) << response;
}

TEST_P(Flask, KeepsSessions) {
    Browser browser(*server_);
    for (const char* count : {"1", "2", "3"})
        EXPECT_EQ(browser.get("/count").body, count);
    EXPECT_EQ(Browser(*server_).get("/count").body, "1");
}

TEST_P(Flask, StreamsAndSendsFiles) {
    std::string lines;
    for (int i = 0; i < 5; ++i)
        lines += "/stream line " + std::to_string(i) + "\n";
    EXPECT_EQ(server_->get("/stream").body, lines);
    const Response file = server_->get("/file");
    EXPECT_EQ(file.body_bytes, 10'000U) << file;
    EXPECT_TRUE(contains(file.field("Content-Disposition"), "digits.bin"));
    const Response source = server_->get("/source");
    EXPECT_EQ(source.body, read_file(apps_dir() + "/flask_site.py"));
    const Response range = server_->get("/source", {{"Range", "bytes=3-8"}});
    EXPECT_EQ(range.status, 206);
    EXPECT_EQ(range.body, source.body.substr(3, 6));
    const Response fresh = server_->get("/source", {{"If-None-Match", source.field("ETag")}});
    EXPECT_EQ(fresh.status, 304) << fresh;
}

TEST_P(Flask, AnswersErrors) {
    EXPECT_EQ(server_->get("/old").status, 302);
    EXPECT_EQ(server_->get("/forbidden").status, 403);
    EXPECT_EQ(server_->get("/nowhere").status, 404);
    EXPECT_EQ(server_->request("DELETE", "/").status, 405);
    EXPECT_EQ(server_->get("/broken").status, 500);
    EXPECT_TRUE(server_->logs("ValueError: broken on purpose")) << server_->story();
    EXPECT_EQ(server_->request("HEAD", "/").field("Content-Length"), "14");
    EXPECT_TRUE(contains(server_->request("OPTIONS", "/").field("Allow"), "GET"));
}

class Django : public PerEngine {
protected:
    void SetUp() override {
        NEED_MODULE("django");
        const Finished prepared =
            run({python(), "-m", "django_site.prepare"}, {{"DJANGO_HOME", home_.path()}});
        ASSERT_EQ(prepared.code, 0) << prepared;
        ServerOptions options = with();
        options.app = "django_site.wsgi";
        options.env["DJANGO_HOME"] = home_.path();
        server_.emplace(options);
    }
    TempDir home_;
    std::optional<Server> server_;
};
FOR_EVERY_ENGINE(Django);

TEST_P(Django, LogsIntoTheAdminWithCookiesAndCsrf) {
    Browser browser(*server_);
    EXPECT_EQ(browser.get("/").body, "Django page for AnonymousUser");
    const Response refused = browser.post_form("/admin/login/", "username=admin&password=secret");
    EXPECT_EQ(refused.status, 403) << "no CSRF token was sent" << refused;
    const Response redirect = browser.get("/admin/");
    EXPECT_EQ(redirect.status, 302);
    EXPECT_EQ(redirect.field("Location"), "/admin/login/?next=/admin/");
    const Response login = browser.get("/admin/login/?next=/admin/");
    EXPECT_EQ(login.status, 200) << login << server_->story();
    const std::string mark = "name=\"csrfmiddlewaretoken\" value=\"";
    const size_t at = login.body.find(mark);
    ASSERT_NE(at, std::string::npos) << login;
    const size_t from = at + mark.size();
    const std::string token = login.body.substr(from, login.body.find('"', from) - from);
    ASSERT_FALSE(browser.cookie("csrftoken").empty()) << login;
    const Response entered = browser.post_form(
        "/admin/login/?next=/admin/",
        "csrfmiddlewaretoken=" + token + "&username=admin&password=secret&next=/admin/");
    EXPECT_EQ(entered.status, 302) << entered;
    ASSERT_FALSE(browser.cookie("sessionid").empty()) << entered;
    const Response index = browser.get("/admin/");
    EXPECT_EQ(index.status, 200) << index;
    EXPECT_TRUE(contains(index.body, "Site administration")) << index;
    EXPECT_EQ(browser.get("/").body, "Django page for admin");
    EXPECT_EQ(browser.get("/admin/auth/user/").status, 200) << server_->story();
}

TEST_P(Django, ServesFilesUploadsAndStreams) {
    const Response style = server_->get("/static/admin/css/base.css");
    EXPECT_TRUE(style.ok()) << style;
    EXPECT_EQ(style.field("Content-Type"), "text/css");
    EXPECT_GT(style.body_bytes, 1000U);
    EXPECT_EQ(std::to_string(style.body_bytes), style.field("Content-Length"));
    EXPECT_EQ(server_
                  ->get("/static/admin/css/base.css",
                        {{"If-Modified-Since", style.field("Last-Modified")}})
                  .status,
              304);
    EXPECT_EQ(server_->get("/static/../settings.py").status / 100, 4);
    const Response download = server_->get("/download");
    EXPECT_EQ(download.body, read_file(apps_dir() + "/django_site/views.py")) << download;
    for (const size_t size : {size_t{1000}, size_t{3'000'000}}) {  // in memory, and in a file
        const Form form = multipart("title", "upload", "file", "u.bin", Pattern().bytes(0, size));
        const Response upload =
            server_->request("POST", "/upload", {{"Content-Type", form.type}}, form.body);
        EXPECT_TRUE(contains(upload.body, sha256_of_pattern(size))) << upload;
        EXPECT_TRUE(contains(upload.body, std::to_string(size))) << upload;
    }
    const Response stream = server_->get("/stream");
    EXPECT_TRUE(stream.ok()) << stream.error;
    EXPECT_TRUE(stream.is_chunked);
    EXPECT_EQ(stream.body.substr(0, 14), "line 0\nline 1\n");
    EXPECT_EQ(stream.body.substr(stream.body.size() - 9), "line 999\n");
    EXPECT_EQ(server_->get("/broken").status, 500);
    EXPECT_TRUE(server_->logs("ValueError: broken on purpose")) << server_->story();
}

class Falcon : public PerEngine {};
FOR_EVERY_ENGINE(Falcon);

TEST_P(Falcon, ServesResourcesMediaAndStreams) {
    NEED_MODULE("falcon");
    ServerOptions options = with();
    options.app = "falcon_site:app";
    const Server server(options);
    const Response item = server.get("/items/7", {{"User-Agent", "tester"}});
    EXPECT_EQ(item.body, R"({"number": 7, "agent": "tester"})") << item << server.story();
    const Response put =
        server.request("PUT", "/items/8", {{"Content-Type", "application/json"}}, R"({"a": null})");
    EXPECT_EQ(put.status, 201) << put;
    EXPECT_TRUE(contains(put.body, R"({"a": null})")) << put;
    EXPECT_EQ(server.request("DELETE", "/items/8").status, 204);
    EXPECT_EQ(server.request("PATCH", "/items/8").status, 405);
    EXPECT_EQ(server.get("/items/x").status, 404);
    const Response refused = server.get("/refused");
    EXPECT_EQ(refused.status, 401);
    EXPECT_EQ(refused.field("WWW-Authenticate"), "Basic");
    const std::string data = Pattern().bytes(0, 10'000);
    EXPECT_TRUE(Pattern().matches(0, server.request("POST", "/stream", {}, data).body));
}

class Bottle : public PerEngine {};
FOR_EVERY_ENGINE(Bottle);

TEST_P(Bottle, ServesTemplatesFormsCookiesAndFiles) {
    NEED_MODULE("bottle");
    ServerOptions options = with();
    options.app = "bottle_site:app";
    const Server server(options);
    Browser browser(server);
    EXPECT_EQ(browser.get("/hello/%3Cyou%3E").body, "<b>Hello &lt;you&gt;</b>!") << server.story();
    EXPECT_TRUE(contains(browser.post_form("/form", "name=value").body, "\"value\""));
    const Form form = multipart("name", "n", "f", "f.bin", Pattern().bytes(0, 12'345));
    EXPECT_TRUE(contains(
        browser.request("POST", "/form", {{"Content-Type", form.type}}, form.body).body, "12345"));
    for (const char* count : {"1", "2", "3"})
        EXPECT_EQ(browser.get("/cookie").body, count);
    EXPECT_EQ(browser.get("/source").body, read_file(apps_dir() + "/bottle_site.py"));
    EXPECT_EQ(browser.get("/generate").body, "line 0\nline 1\nline 2\n");
    EXPECT_EQ(browser.get("/nowhere").status, 404);
}

class Httpbin : public PerEngine {};
FOR_EVERY_ENGINE(Httpbin);

TEST_P(Httpbin, ReflectsRequestsOfEveryKind) {
    NEED_MODULE("httpbin");
    ServerOptions options = with();
    options.app = "httpbin:app";
    const Server server(options);
    Browser browser(server);
    const Response got = browser.get("/get?a=1&a=2");
    EXPECT_EQ(got.status, 200) << got << server.story();
    EXPECT_TRUE(contains(compact(got.body), "\"Host\":\"test.example\"")) << got;
    EXPECT_TRUE(contains(compact(browser.post_form("/post", "k=v+w").body), "\"k\":\"v w\""));
    for (const char* status : {"201", "204", "304", "418", "500"}) {
        const std::string target = "/status/" + std::string(status);
        EXPECT_EQ(browser.get(target).status, std::atoi(status));
    }
    const Response stream = browser.get("/stream/5");
    EXPECT_TRUE(stream.ok()) << stream;
    EXPECT_EQ(std::count(stream.body.begin(), stream.body.end(), '\n'), 5);
    EXPECT_EQ(browser.get("/gzip").field("Content-Encoding"), "gzip");
    EXPECT_EQ(browser.get("/bytes/1000").body_bytes, 1000U);
    EXPECT_EQ(browser.get("/stream-bytes/5000?chunk_size=700").body_bytes, 5000U);
    EXPECT_EQ(browser.get("/range/1024").body_bytes, 1024U);
    EXPECT_EQ(browser.get("/redirect-to?url=/get").field("Location"), "/get");
    EXPECT_EQ(browser.get("/cookies/set?name=value").status, 302);
    EXPECT_EQ(browser.cookie("name"), "value");
    EXPECT_TRUE(contains(compact(browser.get("/cookies").body), "\"name\":\"value\""));
    EXPECT_EQ(browser.get("/basic-auth/u/p").status, 401);
    EXPECT_EQ(browser.request("GET", "/basic-auth/u/p", {{"Authorization", "Basic dTpw"}}).status,
              200);
    EXPECT_EQ(browser.get("/encoding/utf8").status, 200);
    EXPECT_TRUE(contains(browser.get("/response-headers?X-Asked=for").field("X-Asked"), "for"));
    Client client = server.connect();  // a chunked request body
    client.send(
        "POST /post HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
        "Transfer-Encoding: chunked\r\n\r\n5\r\nchunk\r\n2\r\ned\r\n0\r\n\r\n");
    const Response chunked = client.read_response("POST");
    // httpbin takes chunked bodies only from servers whose SERVER_SOFTWARE it knows.
    EXPECT_TRUE(contains(compact(chunked.body), "\"data\":\"chunked\"")) << chunked;
}

}  // namespace
}  // namespace gcorn::e2e
